"""Models from elsewhere and for elsewhere: published checkpoints, the folded export, stock folders as base models."""

import copy
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDIMPipeline, DDIMScheduler, DiffusionPipeline, UNet2DModel
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, interpolate, linear, pad, silu

from dualoptim_diffusion import ConditionalUNet, load_pipeline
from dualoptim_diffusion.core.classes import CIFAR10 as NAMES
from dualoptim_diffusion.core.config import MethodConfig, SamplingConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import Batch
from dualoptim_diffusion.diffusion.sampling import make_scheduler
from dualoptim_diffusion.evaluation.protocol import PROTOCOLS, plan_seeds
from dualoptim_diffusion.files.weight_files import weights_sha256
from dualoptim_diffusion.models import ConditionalDDPM
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.models.published import import_published
from dualoptim_diffusion.models.stock import fold
from dualoptim_diffusion.unlearning.methods.sfron import SFRon
from dualoptim_diffusion.unlearning.saliency import gradients
from tests.helpers.commands import Outcome
from tests.helpers.numerics import RECORDED, rounding
from tests.helpers.published import SHAPES, WIDTH, Shape, State, Trap, published_state, save

Cli = Callable[..., Outcome]
SAME = 1e-10  # difference of two float64 passes through equal networks
FOLDED = rounding(16 + 64)  # an export keeps in float32 what the class MLP made: sums of 16 and then of 64 terms


def published_forward(p: State, x: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
    """The published network in plain functions, in float64 but for the time features; labels None is the null class."""
    p = {name: value.double() for name, value in p.items()}

    def dense(name: str, h: Tensor) -> Tensor:
        return linear(h, p[f"{name}.weight"], p[f"{name}.bias"])

    def conv(name: str, h: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        return conv2d(h, p[f"{name}.weight"], p[f"{name}.bias"], stride, padding)

    def norm(name: str, h: Tensor) -> Tensor:
        return group_norm(h, 32, p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)

    def block(name: str, h: Tensor) -> Tensor:
        y = conv(f"{name}.conv1", silu(norm(f"{name}.norm1", h)))
        y = y + dense(f"{name}.temb_cemb_proj", silu(embedding))[:, :, None, None]
        y = conv(f"{name}.conv2", silu(norm(f"{name}.norm2", y)))
        return y + (conv(f"{name}.nin_shortcut", h, padding=0) if f"{name}.nin_shortcut.weight" in p else h)

    def attend(name: str, h: Tensor) -> Tensor:
        if f"{name}.q.weight" not in p:
            return h
        q, k, v = (conv(f"{name}.{part}", norm(f"{name}.norm", h), padding=0).flatten(2) for part in "qkv")
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) * q.shape[1] ** -0.5, dim=2)
        mixed = torch.einsum("bij,bcj->bci", weights, v).view_as(h)
        return h + conv(f"{name}.proj_out", mixed, padding=0)

    half = p["temb.dense.0.weight"].shape[1] // 2
    exponents = -math.log(10_000) * torch.arange(half, dtype=torch.float32) / (half - 1)
    angles = timesteps.float()[:, None] * torch.exp(exponents)  # float32, and rounded in the order of the network
    rows = p["null_classes_emb"].expand(len(x), -1) if labels is None else p["classes_emb.weight"][labels]
    halves = []
    for name, h in (("temb", torch.cat([angles.sin(), angles.cos()], 1).double()), ("cemb", rows)):
        halves.append(dense(f"{name}.dense.1", silu(dense(f"{name}.dense.0", h))))
    embedding = torch.cat(halves, 1)

    h = conv("conv_in", x)
    skips, level = [h], 0
    while f"down.{level}.block.0.conv1.weight" in p:
        i = 0
        while f"down.{level}.block.{i}.conv1.weight" in p:
            h = attend(f"down.{level}.attn.{i}", block(f"down.{level}.block.{i}", h))
            skips.append(h)
            i += 1
        if f"down.{level}.downsample.conv.weight" in p:
            h = conv(f"down.{level}.downsample.conv", pad(h, (0, 1, 0, 1)), 2, 0)
            skips.append(h)
        level += 1
    h = block("mid.block_2", attend("mid.attn_1", block("mid.block_1", h)))
    for up in reversed(range(level)):
        for j in range(i + 1):
            h = attend(f"up.{up}.attn.{j}", block(f"up.{up}.block.{j}", torch.cat([h, skips.pop()], 1)))
        if up:
            h = conv(f"up.{up}.upsample.conv", interpolate(h, scale_factor=2.0, mode="nearest"))
    return conv("conv_out", silu(norm("norm_out", h)))


def inputs(channels: int = 3, size: int = 8, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x_t = torch.randn(4, channels, size, size, generator=generator).double()
    return x_t, torch.tensor([0, 17, 500, 999]), torch.arange(4) % classes


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative where values are above 1."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


def compare(network: torch.nn.Module, state: State, shape: Shape = SHAPES[0]) -> float:
    x_t, timesteps, labels = inputs(shape.channels, classes=shape.classes)
    network = copy.deepcopy(network).double()
    with torch.no_grad():
        found = network(x_t, timesteps, labels)[0], network(x_t, timesteps, torch.full((4,), shape.classes))[0]
        expected = (
            published_forward(state, x_t, timesteps, labels), published_forward(state, x_t, timesteps, None),
        )  # fmt: skip
    assert difference(expected[0], expected[1]) > 1e-2  # the label tells
    return max(difference(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.numerical
@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_imported_checkpoint_predicts_what_the_description_says(tmp_path: Path, shape: Shape, prefix: str) -> None:
    raw, ema = published_state(shape, 0), published_state(shape, 1)
    path = save(tmp_path / "c.pth", raw, ema, prefix)
    for weights, state in (("raw", raw), ("ema", ema)):
        imported = import_published(path, weights, image_size=8)
        assert compare(imported.network, state, shape) < SAME
        assert (imported.step, imported.left_over) == (7, [])
    assert compare(import_published(path, "raw", 8).network, ema, shape) > 1e-2


@pytest.mark.numerical
def test_a_bare_state_dict_is_read_as_raw_weights_and_a_null_vector_may_be_a_row(tmp_path: Path) -> None:
    state = published_state()
    torch.save(state | {"null_classes_emb": state["null_classes_emb"][None]}, tmp_path / "c.pth")
    imported = import_published(tmp_path / "c.pth", image_size=8)
    assert compare(imported.network, state) < SAME
    assert imported.step is None


@pytest.mark.parametrize(
    "pair",
    [
        ("temb.dense.1.weight", "cemb.dense.1.weight"),
        ("temb.dense.0.bias", "cemb.dense.0.bias"),
        ("down.0.block.0.norm1.weight", "down.0.block.0.norm2.weight"),
        ("mid.block_1.conv1.weight", "mid.block_2.conv1.weight"),
        ("down.1.attn.0.q.weight", "down.1.attn.0.k.weight"),
        ("up.1.attn.0.v.weight", "up.1.attn.1.v.weight"),
    ],
)
def test_two_tensors_in_each_others_place_are_seen(tmp_path: Path, pair: tuple[str, str]) -> None:
    state = published_state()
    swapped = state | {pair[0]: state[pair[1]], pair[1]: state[pair[0]]}
    assert compare(import_published(save(tmp_path / "c.pth", swapped), image_size=8).network, state) > 1e-4


def test_missing_tensors_are_named_and_left_over_ones_reported(tmp_path: Path) -> None:
    state = published_state()
    for name in ("mid.block_1.norm2.bias", "conv_in.weight", "classes_emb.weight", "up.1.upsample.conv.weight"):
        path = save(tmp_path / "c.pth", {key: value for key, value in state.items() if key != name})
        with pytest.raises(InputError, match=rf"c\.pth is no whole .* lacks the weights {re.escape(name)}\)"):
            import_published(path, image_size=8)
    without_mid = {key: value for key, value in state.items() if not key.startswith("mid.block_2.")}
    with pytest.raises(InputError, match=r"no whole checkpoint of .* and 7 more\)"):
        import_published(save(tmp_path / "c.pth", without_mid), image_size=8)
    path = save(tmp_path / "c.pth", state | {"betas": torch.ones(3)})
    assert import_published(path, image_size=8).left_over == ["betas"]


@pytest.mark.parametrize(
    ("changes", "size", "sentence"),
    [
        ({"conv_out.weight": torch.ones(1, WIDTH, 3, 3)}, 8, r"conv_out.weight .* \[1, 64, 3, 3\], expected \[3, 64"),
        ({"down.1.block.0.conv1.weight": torch.ones(96, WIDTH, 3, 3)}, 8, r"\[64, 96\] channels, expected multiples"),
        ({}, 9, "does not work on images of 9 pixels: .* the nearest sizes that can are 8 and 10"),
        ({}, 0, "image_size is 0"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, changes: State, size: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        import_published(save(tmp_path / "c.pth", published_state() | changes), image_size=size)


def test_an_object_in_the_file_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth", published_state(), step=Trap(tmp_path / "made"))
    with pytest.raises(InputError, match=r"of plain tensors \(it holds an object of the kind \S*mkdir\); give a file"):
        import_published(path, image_size=8)
    assert not (tmp_path / "made").exists()
    torch.save([{"a": 1.0}], path)
    with pytest.raises(InputError, match="something other than named tensors"):
        import_published(path)
    with pytest.raises(InputError, match="no weight file"):
        import_published(tmp_path / "none.pth")


def test_the_command_writes_a_pipeline_folder(tmp_path: Path, dualoptim: Cli) -> None:
    path, out = save(tmp_path / "c.pth", published_state() | {"betas": torch.ones(3)}), tmp_path / "model"
    importing = ("import", path, "--out", out, "--image-size", 8)
    done = dualoptim(*importing, "--class-names", "ant, bee,cow,dog", "--json")
    assert done.code == 0, done.err
    written, model = json.loads(done.out), load_model(out)
    assert written == {
        "model": str(out),
        "sha256": weights_sha256(model.network.state_dict()),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "weights": "raw",
        "step": 7,
        "missing_keys": [],
        "left_over_keys": ["betas"],
    }
    assert model.id2label == {0: "ant", 1: "bee", 2: "cow", 3: "dog"}
    assert compare(model.network, published_state()) < SAME
    assert load_pipeline(out)(["bee"], num_inference_steps=2).images[0].size == (8, 8)
    for more, sentence in (
        ((), "use --overwrite"),
        (("--overwrite", "--class-names", "ant,bee"), "2 class names were given (ant, bee, ...), expected 4 different"),
        (("--overwrite", "--class-names", "ant,bee,cow,Ant"), "expected 4 different"),
        (("--overwrite", "--class-names", "cifar10"), "10 class names"),
        (("--overwrite", "--weights", "ema"), "no moving average"),
        (("--overwrite", "--weights", "best"), "'best', expected raw or ema"),
    ):
        refused = dualoptim(*importing, *more)
        assert refused.code == 1
        assert sentence in refused.err
    assert dualoptim(*importing, "--overwrite").code == 0
    assert load_model(out).id2label == {i: str(i) for i in range(4)}


def test_ten_classes_of_colour_images_of_32_pixels_are_cifar10s(tmp_path: Path, dualoptim: Cli) -> None:
    path = save(tmp_path / "c.pth", published_state(Shape((1,), 1, (), False, classes=10)))
    assert dualoptim("import", path, "--out", tmp_path / "a").code == 0
    assert tuple(load_model(tmp_path / "a").id2label.values()) == NAMES
    assert dualoptim("import", path, "--out", tmp_path / "b", "--image-size", 16).code == 0
    assert load_model(tmp_path / "b").id2label[9] == "9"


@pytest.mark.skipif("DUALOPTIM_FIXTURES" not in os.environ, reason="DUALOPTIM_FIXTURES names no folder")
def test_recorded_outputs_of_the_published_code_are_reproduced() -> None:
    folder = Path(os.environ["DUALOPTIM_FIXTURES"])
    with np.load(folder / "published_ddpm_small.npz") as file:
        recorded = {name: torch.from_numpy(file[name]) for name in file.files}
    recorded = {name: value.double() if value.is_floating_point() else value for name, value in recorded.items()}
    raw, ema = (
        widened(
            ConditionalDDPM(
                import_published(folder / "published_ddpm_small.pth", w, 8).network, dict(enumerate("abcd"))
            )
        )
        for w in ("raw", "ema")
    )
    x_t, t, labels = (recorded[name] for name in ("x_t", "timesteps", "class_labels"))
    x_0, noise = recorded["x_0"], recorded["noise"]
    settings = MethodConfig(name="sfron", loss_exponent=0.5)
    with torch.no_grad():
        found = {
            "noise_pred_cond": raw.noise_pred(x_t, t, labels),
            "noise_pred_null": raw.noise_pred(x_t, t, torch.full_like(labels, 4)),
            "noise_pred_guided_w2": raw.noise_pred(x_t, t, labels, guidance_scale=3.0),
            "noise_pred_cond_ema": ema.noise_pred(x_t, t, labels),
            "loss_per_sample": raw.loss(x_0, t, noise, labels),
            "sfron_forget_loss_lambda_half": -SFRon(settings, (0,), 4).forget_loss(
                raw, Batch(x_0, t, noise, labels, labels)
            ),
        }
    assert found.keys() == recorded.keys() - {"x_t", "timesteps", "class_labels", "x_0", "noise"}
    for name, value in found.items():
        torch.testing.assert_close(
            value, recorded[name], rtol=RECORDED, atol=RECORDED, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(scope="module")
def native() -> ConditionalDDPM:
    """Shaped for the digits, with every weight random."""
    torch.manual_seed(0)
    network = ConditionalUNet(8, 1, 10, 16, (1, 2), 1, (4,), True, 0.0, 4)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn_like(p) * (1.0 if p.ndim == 1 else p[0].numel() ** -0.5))
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return ConditionalDDPM(network.eval(), dict(enumerate(names)))


@pytest.fixture(scope="module")
def saved(native: ConditionalDDPM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    native.save(folder := tmp_path_factory.mktemp("native") / "model")
    return folder


def write_stock(folder: Path, network: UNet2DModel, **process: object) -> Path:
    DDIMPipeline(network, DDIMScheduler.from_config({**make_scheduler("ddim").config, **process})).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def stock(native: ConditionalDDPM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock pipeline folder as others train it: ten classes, no null row."""
    network = fold(native.network)
    ten = UNet2DModel.from_config(network.config, num_class_embeds=10)
    state = network.state_dict()
    ten.load_state_dict(state | {"class_embedding.weight": state["class_embedding.weight"][:10]})
    return write_stock(tmp_path_factory.mktemp("stock") / "ten", ten)


def widened(model: ConditionalDDPM) -> ConditionalDDPM:
    """The same in float64."""
    wide = model.frozen_copy()
    wide.network.double()
    return wide


def agree(ours: ConditionalDDPM, others: ConditionalDDPM, null: bool = True) -> float:
    """Largest difference over all labels, guided and not."""
    ours, others = widened(ours), widened(others)
    x_t, t, _ = inputs(1)
    worst = 0.0
    with torch.no_grad():
        for label in range(10 + null):
            labels = torch.full((4,), label)
            for scale in (1.0, 3.0) if null else (1.0,):
                worst = max(
                    worst, difference(others.noise_pred(x_t, t, labels, scale), ours.noise_pred(x_t, t, labels, scale))
                )
    return worst


@pytest.mark.numerical
def test_the_export_is_loaded_by_plain_diffusers_with_equal_outputs(
    native: ConditionalDDPM, saved: Path, tmp_path: Path, dualoptim: Cli
) -> None:
    out = tmp_path / "stock"
    done = dualoptim("export", saved, "--format", "diffusers", "--out", out, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["null_class"] == 10
    assert "dualoptim" not in (out / "model_index.json").read_text()
    pipeline = DiffusionPipeline.from_pretrained(out)
    assert type(pipeline) is DDIMPipeline
    assert type(pipeline.unet) is UNet2DModel
    pipeline.unet.double()
    wide, (x_t, t, _) = widened(native), inputs(1)
    with torch.no_grad():
        null = pipeline.unet(x_t, t, torch.full((4,), 10)).sample
        for label in range(11):
            labels = torch.full((4,), label)
            cond = pipeline.unet(x_t, t, labels).sample
            assert difference(cond, wide.noise_pred(x_t, t, labels)) < FOLDED
            assert difference(null + 3 * (cond - null), wide.noise_pred(x_t, t, labels, 3.0)) < FOLDED
    assert dualoptim("export", saved, "--out", out).code == 1
    assert dualoptim("export", saved, "--out", out, "--overwrite").code == 0
    assert (
        "'gguf', expected diffusers or published"
        in dualoptim("export", saved, "--out", tmp_path / "x", "--format", "gguf").err
    )


def test_the_readme_of_an_export_draws_what_our_pipeline_draws(saved: Path, tmp_path: Path, dualoptim: Cli) -> None:
    dualoptim("export", saved, "--out", tmp_path / "stock")
    text = (tmp_path / "stock" / "README.md").read_text()
    assert '    3  "three"' in text
    assert "The id 10 means no class" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    drawn: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(tmp_path / "stock")), drawn)
    ours = load_pipeline(saved)([0], seeds=[0], output_type="uint8").images
    assert (drawn["images"] * 255 - ours.float()).abs().max() < 1


@pytest.mark.numerical
def test_an_exported_folder_is_a_base_model_again(
    native: ConditionalDDPM, saved: Path, tmp_path: Path, dualoptim: Cli
) -> None:
    dualoptim("export", saved, "--out", tmp_path / "stock")
    model = load_model(tmp_path / "stock", null_class=10, id2label=native.id2label)
    assert (model.null_class, model.num_classes, model.label_drop) == (10, 10, 0.1)
    assert model.id2label == native.id2label
    assert agree(native, model) < FOLDED
    unnamed = load_model(tmp_path / "stock", id2label=native.id2label)
    assert (unnamed.null_class, unnamed.num_classes, unnamed.id2label[10]) == (None, 11, "10")
    with pytest.raises(InputError, match=r"model.null_class is 11, expected a row of .* 0 to 10"):
        load_model(tmp_path / "stock", null_class=11)
    model.save(tmp_path / "ours")
    again = load_model(tmp_path / "ours")
    assert (again.null_class, again.id2label) == (10, native.id2label)
    assert agree(native, again) < FOLDED
    dualoptim("export", tmp_path / "ours", "--out", tmp_path / "twice")
    assert agree(native, load_model(tmp_path / "twice", null_class=10)) < FOLDED


@pytest.mark.numerical
def test_a_null_row_elsewhere_is_moved_to_the_end_exactly(native: ConditionalDDPM, tmp_path: Path) -> None:
    network = fold(native.network)
    last = ConditionalDDPM(fold(native.network), native.id2label)
    with torch.no_grad():
        rows = network.class_embedding.weight
        rows.copy_(rows[[0, 1, 2, 10, *range(3, 10)]])
    moved = load_model(write_stock(tmp_path / "stock", network), null_class=3, id2label=native.id2label)
    assert weights_sha256(moved.network.state_dict()) == weights_sha256(last.network.state_dict())
    assert agree(native, moved) < FOLDED


def test_a_model_without_a_null_class_says_what_to_do_where_one_is_needed(stock: Path, native: ConditionalDDPM) -> None:
    model = load_model(stock, id2label=native.id2label)
    assert (model.null_class, model.num_classes, model.label_drop) == (None, 10, 0.0)
    assert agree(native, model, null=False) < FOLDED
    with pytest.raises(InputError, match=r"set model.null_class, or sampling.guidance_scale=1"):
        model.noise_pred(*inputs(1), guidance_scale=3.0)
    with pytest.raises(InputError, match=r"set model.null_class, or method.mask.estimator=plain"):
        next(gradients(model, lambda i: pytest.fail("drawn"), 1, "published", ""))
    settings = SamplingConfig(seeds="0-3")
    planned = plan_seeds(PROTOCOLS["seeds"], settings, list(model.id2label), model.null_class, (3,), 100)
    assert list(planned) == list(range(10))
    with pytest.raises(InputError, match=r"no class 10: ids are 0 to 9\.$"):
        load_pipeline(stock)([10])


def test_a_stock_folder_of_another_process_goes_all_the_way(
    stock: Path, recipes: Path, tmp_path: Path, dualoptim: Cli
) -> None:
    process = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2", "trained_betas": None}
    folder = write_stock(tmp_path / "v", load_model(stock).network, **process)
    recipe = yaml.safe_load((recipes / "tiny.yaml").read_text()) | {"model": {"path": str(folder)}}
    (recipes / "v.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "run"
    done = dualoptim("forget", recipes / "v.yaml", "--class", "three", "method.num_steps=2", "--out", out)
    assert done.code == 0, done.err
    made = load_model(out / "model")
    assert (made.family, made.forgotten, made.id2label[3]) == ("ddpm", ["three"], "three")
    assert made.betas is not None
    assert made.prediction_type == "v_prediction"
    assert load_pipeline(out)(["four"], num_inference_steps=2, output_type="uint8").images.shape == (1, 1, 8, 8)
    assert dualoptim("evaluate", out).code == 0
    quick = ("audit.images=4", "audit.timesteps=[400]", "audit.real_images=2", "audit.batch_size=4")
    audited = dualoptim("audit", out, "--probe", "noisy_start", "--probe", "inversion", *quick)
    assert audited.code == 0, audited.err
    assert dualoptim("export", out, "--out", tmp_path / "stock").code == 0
    assert "The network predicts v;" in (tmp_path / "stock" / "README.md").read_text()
    exported = load_model(tmp_path / "stock", null_class=made.null_class)
    assert exported.prediction_type == "v_prediction"
    assert torch.allclose(exported.betas, made.betas, atol=1e-6)


def test_folders_that_do_not_fit_are_refused(stock: Path, saved: Path, native: ConditionalDDPM, tmp_path: Path) -> None:
    network = load_model(stock).network
    plain = UNet2DModel.from_config(network.config, num_class_embeds=None)
    with pytest.raises(InputError, match="no class table"):
        load_model(write_stock(tmp_path / "plain", plain))
    with pytest.raises(InputError, match="says itself that its null class is 10"):
        load_model(saved, null_class=4)
    assert load_model(saved, null_class=10).null_class == 10


def test_a_stock_folder_without_a_null_class_is_forgotten_from(
    stock: Path, recipes: Path, tmp_path: Path, dualoptim: Cli
) -> None:
    recipe = yaml.safe_load((recipes / "tiny.yaml").read_text()) | {"model": {"path": str(stock)}}
    recipe["method"] |= {"num_steps": 2}
    tiny, out = recipes / "stock.yaml", tmp_path / "run"
    tiny.write_text(yaml.safe_dump(recipe))
    forgetting = ("forget", tiny, "--class", "three", "--out", out)
    for override, sentence in (
        ("sampling.guidance_scale=2", "guidance_scale is 2.0 under the protocol seeds"),
        ("method.mask.estimator=published", "method.mask.estimator=plain"),
        ("method.name=null_matching", "choose another method"),
        ("method.forget_ceiling=1", "without method.forget_ceiling"),
        ("model.null_class=9", "the data set 'digits' holds others"),
    ):
        refused = dualoptim(*forgetting, override)
        assert refused.code == 1
        assert sentence in refused.err
    done = dualoptim(*forgetting, "--json")
    assert done.code == 0, done.err
    assert "null label" not in json.loads(done.out)["unlearned"]["leak"]
    pipeline = load_pipeline(out)
    assert type(pipeline.unet) is UNet2DModel
    assert (pipeline.null_class, pipeline.id2label[3]) == (None, "three")
    assert pipeline(["two"], num_inference_steps=2).images[0].size == (8, 8)
    assert dualoptim("sample", out, "--class", "three", "--seeds", "0-1", "--out", tmp_path / "s").code == 0
    assert dualoptim("grid", out, "--out", tmp_path / "grid.png").code == 0
    assert dualoptim("evaluate", out).code == 0
    assert "sampling.guidance_scale=1" in dualoptim("evaluate", out, "sampling.guidance_scale=2").err
    again = dualoptim("forget", tiny, "--class", "four", "--dry-run", f"model.path={out}")
    assert again.code == 0, again.err
    assert load_model(out).id2label == load_model(out / "model").id2label


def test_a_null_row_that_was_not_named_is_guessed_at_in_the_refusal(
    saved: Path, tiny: str, tmp_path: Path, dualoptim: Cli
) -> None:
    dualoptim("export", saved, "--out", tmp_path / "stock")
    refused = dualoptim(
        "forget", tiny, "--class", "three", "--out", tmp_path / "run", f"model.path={tmp_path / 'stock'}"
    )
    assert refused.code == 1
    assert "name the one that means no class as model.null_class" in refused.err
