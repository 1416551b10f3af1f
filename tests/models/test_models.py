"""The conditional U-Net and its pipeline."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file

from dualoptim_diffusion import ConditionalDDPMPipeline, ConditionalUNet, load_pipeline
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.diffusion.process import linear_alphas_cumprod
from dualoptim_diffusion.diffusion.sampling import draw, make_scheduler
from dualoptim_diffusion.files.weight_files import weights_sha256
from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.models.stock import fold, stock_like
from dualoptim_diffusion.models.unet_layers import sinusoids
from tests.helpers.dit import random_dit
from tests.helpers.numerics import rounding

CIFAR_PARAMETERS = 38_632_323


def small(**changes: object) -> ConditionalUNet:
    torch.manual_seed(0)
    settings = {
        "sample_size": 8,
        "in_channels": 1,
        "num_classes": 4,
        "width": 16,
        "multipliers": (1, 2),
        "layers_per_block": 1,
        "attention_resolutions": (4,),
        "dropout": 0.0,
        "norm_groups": 4,
    }
    return ConditionalUNet(**(settings | changes)).eval()


def test_the_cifar_setting_has_the_published_parameter_count() -> None:
    with torch.device("meta"):
        network = ConditionalUNet()
    assert sum(p.numel() for p in network.parameters()) == CIFAR_PARAMETERS


def test_attention_follows_each_block_at_its_resolution_and_once_in_the_middle() -> None:
    with torch.device("meta"):
        blocks = ConditionalUNet().unet
    assert [hasattr(block, "attentions") for block in blocks.down_blocks] == [False, True, False, False]
    assert [hasattr(block, "attentions") for block in blocks.up_blocks] == [False, False, True, False]
    assert len(blocks.mid_block.attentions) == 1


def test_embeddings_are_concatenated_time_low_class_high() -> None:
    network, seen = small(), []
    network.unet.mid_block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    timesteps, labels = torch.tensor([0, 17, 999]), torch.tensor([0, 3, 4])
    network(torch.randn(3, 1, 8, 8), timesteps, labels)
    assert seen[0].shape == (3, 128)
    assert torch.equal(seen[0][:, :64], network.unet.time_embedding(timesteps))
    assert torch.equal(seen[0][:, 64:], network.unet.class_embedding(labels))


@pytest.mark.parametrize("changes", [{}, {"attention_resolutions": (8,), "mid_attention": False}])
def test_a_seed_gives_the_random_weights_of_diffusers_own_network_in_its_order(changes: dict[str, object]) -> None:
    network = small(**changes)
    torch.manual_seed(0)
    stock = stock_like(network, num_class_embeds=None)
    ours, theirs = dict(network.unet.named_parameters()), dict(stock.named_parameters())
    assert [name for name in ours if "_embedding." not in name] == [n for n in theirs if "_embedding." not in n]
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items() if "_embedding." not in name)


@pytest.mark.numerical
@pytest.mark.parametrize("changes", [{}, {"attention_resolutions": (8,), "mid_attention": False}])
def test_outputs_and_gradients_are_those_of_diffusers_own_network(changes: dict[str, object]) -> None:
    network = small(**changes).double()
    stock = fold(network)
    x_t, timesteps, labels = torch.randn(3, 1, 8, 8).double(), torch.tensor([0, 17, 999]), torch.tensor([0, 3, 4])
    ours, theirs = network(x_t, timesteps, labels).sample, stock(x_t, timesteps, labels).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    for output in (ours, theirs):
        output.square().sum().backward()
    for name, parameter in stock.named_parameters():
        if "_embedding." not in name:
            own = network.unet.get_parameter(name)
            torch.testing.assert_close(own.grad, parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.numerical
def test_time_features_are_sines_then_cosines_of_geometric_frequencies() -> None:
    t = torch.tensor([0.0, 1.0, 17.0, 999.0])
    frequencies = 10_000 ** (-torch.arange(8, dtype=torch.float64) / 7)
    angles = t.double()[:, None] * frequencies
    expected = torch.cat([angles.sin(), angles.cos()], dim=1)
    found = torch.cat(sinusoids(t, 16, shift=1), dim=1).double()  # float32 inside
    assert ((found - expected).abs() <= rounding(3) * t.double()[:, None] + rounding(1)).all()  # angle, then sine


def test_every_label_and_the_null_class_change_the_output() -> None:
    network = small()
    x_t, t = torch.randn(1, 1, 8, 8).expand(5, -1, -1, -1), torch.full((5,), 500)
    with torch.no_grad():
        out = network(x_t, t, torch.arange(5)).sample
    differences = (out[:, None] - out[None]).abs().flatten(2).amax(2) + torch.eye(5)
    assert differences.min() > 1e-3


def test_the_null_vector_is_learned_apart_from_the_class_table() -> None:
    network = small()
    network(torch.randn(2, 1, 8, 8), torch.zeros(2).long(), torch.tensor([4, 4])).sample.sum().backward()
    half = network.unet.class_embedding
    assert half.null.grad.abs().sum() > 0
    assert not half.table.weight.grad.any()


def test_downsampling_pads_right_and_bottom_alone() -> None:
    conv = small().unet.down_blocks[0].downsamplers[0].conv
    assert (conv.padding, conv.stride) == ((0, 0), (2, 2))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sample_size": 30, "multipliers": (1, 1, 1)}, "nearest sizes that can are 28 and 32"),
        ({"norm_groups": 16}, "at least 2 channels a group"),
        ({"norm_groups": 5}, "must divide"),
    ],
)
def test_an_architecture_that_cannot_work_is_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small(**changes)


def test_28_pixels_work_with_three_levels() -> None:
    network = small(sample_size=28, multipliers=(1, 1, 1))
    assert network(torch.randn(1, 1, 28, 28), torch.tensor([5]), torch.tensor([0])).sample.shape == (1, 1, 28, 28)


def test_encode_and_decode_are_inverse_on_every_grey_level() -> None:
    model = ConditionalDDPM(small(), {i: str(i) for i in range(4)})
    images = torch.arange(256).to(torch.uint8).view(4, 1, 8, 8)
    x_0 = model.encode(images)
    assert (x_0.min(), x_0.max()) == (-1, 1)
    assert torch.equal(model.decode(x_0), images)


def test_a_saved_pipeline_keeps_weights_names_and_null_class(tmp_path: Path) -> None:
    names = {0: "cat, moggy", 1: "dog", 2: "owl", 3: "eel"}
    model = ConditionalDDPM(small(), names)
    model.save(tmp_path / "m")
    loaded = load_pipeline(tmp_path / "m")
    assert loaded.id2label == names
    assert loaded.null_class == 4
    assert weights_sha256(loaded.unet.state_dict()) == weights_sha256(model.network.state_dict())
    assert "dog" in json.loads((tmp_path / "m" / "model_index.json").read_text())["id2label"].values()
    assert not [path for path in (tmp_path / "m").rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".pth"}]


def test_the_pipeline_draws_by_name_and_by_seed() -> None:
    pipeline = ConditionalDDPMPipeline.from_parts(small(), dict(enumerate("abcd")))
    drawn = pipeline(["b", 1, 4], seeds=[7, 7, 7], num_inference_steps=2, output_type="uint8").images
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert pipeline(["a"], num_inference_steps=2).images[0].size == (8, 8)


def test_each_image_has_its_own_generator_for_every_noise() -> None:
    def predict(x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.zeros_like(x_t)  # so that images depend on the drawn noises alone

    three = draw(predict, make_scheduler("ddpm"), (1, 4, 4), [0, 0, 0], [5, 6, 7], 5, 1.0)
    one = draw(predict, make_scheduler("ddpm"), (1, 4, 4), [0], [6], 5, 1.0)
    assert torch.equal(three[1], one[0])


def in_float64(scheduler: Any) -> Any:
    """The scheduler with tables that are not rounded to float32."""
    scheduler.alphas_cumprod = linear_alphas_cumprod(dtype=torch.float64)
    scheduler.one = scheduler.one.double()
    return scheduler


def with_variance(v: float) -> Callable[..., torch.Tensor]:
    """Predicts no noise, and v beside it where -1 is the smallest variance and 1 the largest."""

    def predict(x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x_t), torch.full_like(x_t, v)], 1)

    return predict


@pytest.mark.numerical
def test_a_learned_variance_runs_between_the_posterior_and_beta(doubles: None) -> None:
    drawing: Any = ((1, 4, 4), [0, 0], [5, 6], 5, 1.0)
    smallest = draw(with_variance(-1), in_float64(make_scheduler("ddpm", learned_variance=True)), *drawing)
    fixed_small = in_float64(DDPMScheduler.from_config(make_scheduler("ddpm").config, timestep_spacing="linspace"))
    torch.testing.assert_close(smallest, draw(with_variance(9), fixed_small, *drawing), rtol=1e-10, atol=1e-10)
    largest = draw(with_variance(1), in_float64(make_scheduler("ddpm", learned_variance=True)), *drawing)
    fixed_small.set_timesteps(5)
    steps, abar = fixed_small.timesteps.tolist(), linear_alphas_cumprod(dtype=torch.float64)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    x = torch.stack([torch.randn(1, 4, 4, generator=g) for g in generators])
    for t, before in zip(steps, [*steps[1:], None], strict=True):
        now, last = abar[t], abar[before] if before is not None else abar.new_ones(())
        alpha = now / last
        x_0 = x / now.sqrt()
        x = last.sqrt() * (1 - alpha) / (1 - now) * x_0 + alpha.sqrt() * (1 - last) / (1 - now) * x
        if before is not None:
            x = x + (1 - alpha).sqrt() * torch.stack([torch.randn(1, 4, 4, generator=g) for g in generators])
    torch.testing.assert_close(largest, x, rtol=1e-10, atol=1e-10)
    for name in ("ddim", "dpmsolver++"):  # no use for it
        assert torch.equal(
            draw(with_variance(1), make_scheduler(name, True), *drawing),
            draw(with_variance(-1), make_scheduler(name), *drawing),
        )


@pytest.mark.parametrize(
    ("labels", "seeds", "sentence"),
    [(["b"], [1, 2], "one seed an image"), (["bb"], None, "There is no class 'bb'"), ([9], None, "no class 9")],
)
def test_the_pipeline_refuses_what_it_cannot_draw(labels: list, seeds: list | None, sentence: str) -> None:
    pipeline = ConditionalDDPMPipeline.from_parts(small(), dict(enumerate("abcd")))
    with pytest.raises(InputError, match=sentence):
        pipeline(labels, seeds=seeds)


def test_a_missing_pipeline_folder_is_named() -> None:
    with pytest.raises(InputError, match="no pipeline folder 'nowhere'"):
        load_pipeline("nowhere")


Damage = Callable[[Path], object]


def rewritten(name: str, **entries: object) -> Damage:
    """Other entries of a JSON file."""
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | entries))


def without_a_tensor(folder: Path) -> None:
    path = next(folder.glob("*/diffusion_pytorch_model.safetensors"))
    weights = load_file(path)
    del weights[max(weights)]
    save_file(weights, path)


def halved(pattern: str) -> Damage:
    def halve(folder: Path) -> None:
        path = next(folder.glob(pattern))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return halve


def lacking(pattern: str) -> Damage:
    def remove(folder: Path) -> None:
        path = next(folder.glob(pattern))
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


NETWORK = "[ut][nr]*[tr]/"  # unet/ or transformer/
DAMAGES: dict[str, tuple[Damage, str]] = {
    "whose weights are cut": (halved(f"{NETWORK}*.safetensors"), "safetensors"),
    "whose settings are cut": (halved(f"{NETWORK}config.json"), "config.json"),
    "whose index is cut": (halved("model_index.json"), ""),
    "whose index is a list": (lambda folder: (folder / "model_index.json").write_text("[1]"), ""),
    "without its network": (lacking(NETWORK), ""),
    "without weights": (lacking(f"{NETWORK}*.safetensors"), "no file named"),
    "without settings": (lacking(f"{NETWORK}config.json"), "config.json"),
    "without its scheduler": (lacking("scheduler"), ""),
    "without one of its tensors": (without_a_tensor, "lacks the weights"),
    "with a part of another library": (rewritten("model_index.json", scheduler=["os", "x"]), "part 'scheduler' is of"),
    "with an unknown part": (rewritten("model_index.json", scheduler=["diffusers", "Nothing"]), "Nothing"),
    "with names of another kind": (rewritten("model_index.json", id2label=[3]), ""),
}


@pytest.mark.parametrize("family", ["ddpm", "dit"])
@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_pipeline_folder_is_refused_with_the_reason_and_what_to_do(
    tmp_path: Path, family: str, damage: Damage, reason: str
) -> None:
    names = {i: str(i) for i in range(4)}
    model = ConditionalDDPM(small(), names) if family == "ddpm" else ConditionalDiT(random_dit(num_classes=4), names)
    model.save(tmp_path / "m")
    damage(tmp_path / "m")
    for load in (load_pipeline, load_model):
        with pytest.raises(InputError) as error:
            load(tmp_path / "m")
        sentence = str(error.value)
        assert f"{tmp_path / 'm'} is not a pipeline folder" in sentence
        assert reason in sentence
        assert "restore it, or name another" in sentence
