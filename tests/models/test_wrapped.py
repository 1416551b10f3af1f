"""Any network of one's own: the noise it implies, forgetting and drawing under its own diffusion process."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    KarrasVeScheduler,
    UNet2DModel,
)
from safetensors.torch import load_file
from torch import Tensor, nn

from dualoptim_diffusion import forget, load_model, sample, wrap
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.diffusion.process import DENOISER, FLOW, PREDICTIONS, implied_noise
from dualoptim_diffusion.models import ConditionalDDPM, UNetModule, load_pipeline
from dualoptim_diffusion.models.stock import OF_BETAS

SHAPE = (1, 8, 8)
NAMES = {0: "cat", 1: "dog"}
COSINE = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 200}
OTHERS = {FLOW: FlowMatchEulerDiscreteScheduler, DENOISER: EDMEulerScheduler}
SMALL = {
    "sample_size": 8, "in_channels": 1, "num_classes": 2, "width": 8, "multipliers": (1, 2), "layers_per_block": 1,
    "attention_resolutions": (), "mid_attention": False, "norm_groups": 2, "dropout": 0.0,
}  # fmt: skip


class Own(nn.Module):
    """A user's network: a convolution that knows its label and the time."""

    def __init__(self, rows: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.mix = nn.Embedding(rows, 64), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        about = self.table(y).view(-1, 1, 8, 8) + t.view(-1, 1, 1, 1) / 1000
        return self.mix(torch.cat([x, about], 1))


def scheduler(prediction_type: str, **more: Any) -> DDIMScheduler:
    settings = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
    return DDIMScheduler(prediction_type=prediction_type, **settings, **COSINE, **more)


def stock_unet() -> UNet2DModel:
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4, num_class_embeds=3,
    )  # fmt: skip


def dataset() -> tuple[Tensor, Tensor]:
    images = torch.randint(256, (8, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return images, torch.arange(8) % 2


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_network_of_any_kind_predicts_the_very_noise(prediction: str) -> None:
    abar = DDPMScheduler(**COSINE).alphas_cumprod.double()
    x_0, noise = torch.randn(2, 4, *SHAPE, dtype=torch.float64)
    t = torch.tensor([0, 5, 100, 190])
    a, s = (part.view(-1, 1, 1, 1) for part in (abar[t].sqrt(), (1 - abar[t]).sqrt()))
    outputs = {"epsilon": noise, "sample": x_0, "v_prediction": a * noise - s * x_0, FLOW: noise - x_0, DENOISER: x_0}
    found = implied_noise(outputs[prediction], a * x_0 + s * noise, abar[t].view(-1, 1, 1, 1), prediction)
    assert torch.allclose(found, noise, atol=1e-9)


@pytest.mark.parametrize("prediction", OF_BETAS)
def test_it_draws_as_diffusers_does_with_the_scheduler_of_the_network(prediction: str) -> None:
    network = Own()
    own = scheduler(prediction)
    drawn = sample(wrap(network, NAMES, SHAPE, scheduler=own), ["dog"], [7], device="cpu", num_inference_steps=20)
    own.set_timesteps(20)
    x_t = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        for t in own.timesteps:
            x_t = own.step(network(x_t, t[None], torch.tensor([1])), t, x_t).prev_sample
    expected = ((x_t / 2 + 0.5).clamp(0, 1) * 255).round()
    assert (drawn[1].float() - expected).abs().max() <= 1


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [4, 25])
def test_flow_matching_is_drawn_by_euler_steps_along_its_path(shift: float, steps: int) -> None:
    network, own = Own(), FlowMatchEulerDiscreteScheduler(shift=shift)
    model = wrap(network, NAMES, SHAPE, scheduler=own)
    drawn = sample(model, ["dog"], [7], device="cpu", num_inference_steps=steps)
    levels = own.sigmas.flip(0)[torch.linspace(0, 1000, steps + 1).round().long()[1:] - 1].flip(0)
    x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        for sigma, below in zip(levels, [*levels[1:], torch.tensor(0.0)], strict=True):
            x = x + (below - sigma) * network(x, 1000 * sigma[None], torch.tensor([1]))
    expected = ((x / 2 + 0.5).clamp(0, 1) * 255).round()
    assert (drawn[1].float() - expected).abs().max() <= 2  # it starts at the last level below 1


@pytest.mark.parametrize("steps", [4, 25])
def test_a_denoiser_is_drawn_by_euler_steps_in_sigma(steps: int) -> None:
    class Denoiser(nn.Module):  # knows that all images are one grey
        def forward(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
            ratio = (0.25 / (0.25 + sigma.square())).view(-1, 1, 1, 1)
            return ratio * x + (1 - ratio) * (0.1 * y.view(-1, 1, 1, 1) - 0.3)

    own = EDMEulerScheduler()
    drawn = sample(wrap(Denoiser(), NAMES, SHAPE, scheduler=own), ["dog"], [7], device="cpu", num_inference_steps=steps)
    levels = own.sigmas[:1000].flip(0)[torch.linspace(0, 1000, steps + 1).round().long()[1:] - 1].flip(0)
    x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(7)) * (1 + levels[0] ** 2).sqrt()
    for sigma, below in zip(levels, [*levels[1:], torch.tensor(0.0)], strict=True):
        x_0 = Denoiser()(x, sigma[None], torch.tensor([1]))
        x = x + (below - sigma) * (x - x_0) / sigma
    assert (drawn[1].float() - ((x / 2 + 0.5).clamp(0, 1) * 255).round()).abs().max() <= 1


def test_a_network_that_takes_none_for_no_class_is_given_none_for_those_samples_alone() -> None:
    class Optional(Own):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            return super().forward(x, t, torch.full((len(x),), 2) if y is None else y)

    table, none = wrap(Own(), NAMES, SHAPE, null_class=2), wrap(Optional(), NAMES, SHAPE, null_class="none")
    x, t = torch.randn(5, *SHAPE), torch.arange(5)
    for labels in ([0, 2, 1, 2, 0], [2] * 5, [1, 0, 1, 0, 1]):
        y = torch.tensor(labels)
        assert torch.allclose(table.predict(x, t, y), none.predict(x, t, y), atol=1e-6)
    assert torch.allclose(table.predict(x, t, y, 3.0), none.predict(x, t, y, 3.0), atol=1e-5)
    quick = {"method": "null_matching", "num_steps": 2, "batch_size": 4, "progress": False, "device": "cpu"}
    ends = [forget(model, dataset(), ["cat"], **quick).model.module.state_dict() for model in (table, none)]
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-6) for name in ends[0])


def test_the_loss_of_flow_matching_is_that_of_the_velocity_by_one_minus_sigma() -> None:
    network, own = Own(), FlowMatchEulerDiscreteScheduler()
    model = wrap(network, NAMES, SHAPE, scheduler=own)
    x_0, noise = torch.randn(2, 4, *SHAPE)
    t, y = torch.tensor([0, 49, 499, 998]), torch.tensor([0, 1, 0, 1])
    sigma = ((t + 1) / 1000).view(-1, 1, 1, 1)
    velocity = network((1 - sigma) * x_0 + sigma * noise, 1000 * sigma.view(-1), y)
    expected = ((1 - sigma) * (velocity - (noise - x_0))).square().flatten(1).sum(1)
    assert torch.allclose(model.loss(x_0, t, noise, y), expected, rtol=1e-4)
    assert torch.equal(network(x_0, model._times(t), y), network(x_0, 1000 * sigma.view(-1), y))


def test_the_loss_of_a_network_of_noise_is_the_plain_one_under_its_own_betas() -> None:
    network, own = Own(), DDPMScheduler(**COSINE)
    x_0, noise, t, y = (
        torch.randn(4, *SHAPE),
        torch.randn(4, *SHAPE),
        torch.tensor([0, 50, 100, 199]),
        torch.ones(4).long(),
    )
    found = wrap(network, NAMES, SHAPE, scheduler=own).loss(x_0, t, noise, y)
    expected = (network(own.add_noise(x_0, noise, t), t, y) - noise).square().flatten(1).sum(1)
    assert torch.allclose(found, expected, rtol=1e-5)


def test_without_a_scheduler_it_is_our_own_model_bit_for_bit() -> None:
    torch.manual_seed(0)
    unet = UNetModule(**SMALL)
    ours, wrapped = ConditionalDDPM(unet, dict(NAMES)), wrap(unet, NAMES, SHAPE, null_class=2)
    quick = {"device": "cpu", "num_steps": 2, "batch_size": 4, "progress": False}
    weights = [forget(model, dataset(), ["cat"], **quick).model.network.state_dict() for model in (ours, wrapped)]
    assert all(torch.equal(weights[0][name], weights[1][f"module.{name}"]) for name in weights[0])
    settings = {"device": "cpu", "num_inference_steps": 2, "guidance_scale": 2.0}
    assert torch.equal(sample(ours, ["dog"], **settings)[1], sample(wrapped, ["dog"], **settings)[1])


@pytest.mark.parametrize("method", ["sfron", "salun", "gradient_ascent", "finetune"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_kind_of_network_forgets_by_every_method_that_needs_no_null_class(method: str, prediction: str) -> None:
    own = OTHERS[prediction]() if prediction in OTHERS else scheduler(prediction)
    model = wrap(Own(2), NAMES, SHAPE, scheduler=own)
    result = forget(model, dataset(), ["cat"], method=method, num_steps=2, batch_size=4, progress=False, device="cpu")
    assert result.model.forgotten == ["cat"]
    assert not torch.equal(result.model.module.mix.weight, model.module.mix.weight)
    assert sample(result.model, ["dog"], range(2), device="cpu", num_inference_steps=2)[1].shape == (2, *SHAPE)


def test_forgetting_raises_the_loss_of_the_class_and_not_that_of_the_other() -> None:
    model = wrap(Own(2), NAMES, SHAPE, scheduler=scheduler("v_prediction"))
    images, labels = dataset()
    learned = forget(model, (images, labels), ["cat"], method="finetune", num_steps=100, retain_lr=1e-2, batch_size=8,
                     progress=False, device="cpu").model  # fmt: skip
    learned.forgotten = []
    gone = forget(learned, (images, labels), ["cat"], num_steps=40, forget_lr=3e-3, retain_lr=3e-3, mask=None,
                  batch_size=8, progress=False, device="cpu").model  # fmt: skip

    def loss(of: Any, label: int) -> float:
        x_0 = of.encode(images[labels == label])
        noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
        timesteps = torch.linspace(0, 199, len(x_0)).long()
        return float(of.loss(x_0, timesteps, noise, torch.full((len(x_0),), label)).mean())

    rise = [loss(gone, label) / loss(learned, label) for label in (0, 1)]
    assert rise[0] > 1.1 > 1.02 > rise[1]


def test_what_is_saved_are_the_weights_by_the_network_s_own_names(tmp_path: Path) -> None:
    model = wrap(Own(), NAMES, SHAPE)
    forget(model, dataset(), ["cat"], num_steps=1, batch_size=4, progress=False, device="cpu").save(tmp_path / "out")
    assert load_file(tmp_path / "out" / "model" / "network.safetensors").keys() == Own().state_dict().keys()


def test_a_stock_folder_of_v_under_cosine_betas_forgets_and_is_loaded_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = stock_unet()
    own = DDPMScheduler(prediction_type="v_prediction", **COSINE)
    DDPMPipeline(unet, own).save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base", null_class=2, id2label=NAMES)
    assert (model.family, model.null_class, model.num_train_timesteps) == ("ddpm", 2, 200)
    assert torch.equal(model.betas, own.betas)
    x_0, noise, t = torch.randn(3, *SHAPE), torch.randn(3, *SHAPE), torch.tensor([0, 100, 199])
    x_t = own.add_noise(x_0, noise, t)
    v = unet(x_t, t, torch.tensor([0, 1, 2])).sample
    a, s = (part.view(-1, 1, 1, 1) for part in (own.alphas_cumprod[t].sqrt(), (1 - own.alphas_cumprod[t]).sqrt()))
    assert torch.allclose(model.predict(x_t, t, torch.tensor([0, 1, 2])), s * x_t + a * v, atol=1e-5)

    result = forget(model, dataset(), ["cat"], num_steps=2, batch_size=4, progress=False, device="cpu")
    result.save(tmp_path / "out")
    again = load_model(tmp_path / "out" / "model")
    assert (again.forgotten, again.id2label, again.null_class) == (["cat"], NAMES, 2)
    quick = {"device": "cpu", "num_inference_steps": 3, "guidance_scale": 2.0}
    assert torch.equal(sample(again, ["dog"], **quick)[1], sample(result.model, ["dog"], **quick)[1])
    with pytest.raises(InputError, match="'cat' already"):
        forget(again, dataset(), ["cat"], progress=False, device="cpu")


def test_a_folder_keeps_its_scheduler_through_forgetting(tmp_path: Path) -> None:
    own = DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", solver_order=3)
    torch.manual_seed(0)
    DDPMPipeline(stock_unet(), own).save_pretrained(tmp_path / "base")
    own.save_pretrained(tmp_path / "base" / "scheduler")
    index = json.loads((tmp_path / "base" / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DPMSolverMultistepScheduler"]
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(index))
    model = load_model(tmp_path / "base", null_class=2, id2label=NAMES)
    assert model.process is None
    quick = {"num_steps": 2, "batch_size": 4, "progress": False, "device": "cpu"}
    result = forget(model, dataset(), ["cat"], **quick)
    result.save(tmp_path / "out")
    pipeline = load_pipeline(tmp_path / "out" / "model")
    assert type(pipeline.scheduler) is DPMSolverMultistepScheduler
    assert pipeline.scheduler.config.solver_order == 3
    own.set_timesteps(4)
    x_t = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        for t in own.timesteps:
            x_t = own.step(result.model.network(x_t, t[None], torch.tensor([1])).sample, t, x_t).prev_sample
    drawn = pipeline(["dog"], seeds=[7], num_inference_steps=4, output_type="latent").images
    assert torch.allclose(drawn, x_t, atol=1e-5)


@pytest.mark.parametrize("form", [lambda x: (x,), lambda x: SimpleNamespace(sample=x), lambda x: x])
def test_a_tuple_or_an_output_of_diffusers_is_unpacked(form: Callable[[Tensor], Any]) -> None:
    class Formed(Own):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Any:
            return form(super().forward(x, t, y))

    x, t = torch.randn(2, *SHAPE), torch.tensor([1, 2])
    assert torch.equal(wrap(Formed(), NAMES, SHAPE).predict(x, t, t - 1), Own()(x, t, t - 1))


class Two(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


class Half(Own):
    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, t, y)[:, :, ::2]


def flow_folder() -> Path:
    """A pipeline folder as a user's script may have written it."""
    folder = Path(mkdtemp())
    DDPMPipeline(stock_unet(), DDPMScheduler()).save_pretrained(folder)
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "another signature": (lambda: wrap(Two(), NAMES, SHAPE), "cannot be called as network"),
    "another shape": (lambda: wrap(Half(), NAMES, SHAPE), r"returns \[2, 1, 4, 8\] for images \[2, 1, 8, 8\]"),
    "images of another size": (lambda: wrap(Own(), NAMES, (1, 6, 6)), "cannot be called"),
    "a label that the table has not": (lambda: wrap(Own(), NAMES, SHAPE, null_class=9), "cannot be called"),
    "a null class that is a class": (lambda: wrap(Own(), NAMES, SHAPE, null_class=1), "which is the class 'dog'"),
    "ids that do not count": (lambda: wrap(Own(), {1: "cat", 2: "dog"}, SHAPE), "the ids 0 to 1"),
    "a scheduler without betas": (
        lambda: wrap(Own(), NAMES, SHAPE, scheduler=KarrasVeScheduler()),
        "no table of betas",
    ),
    "shifts that depend on the image": (
        lambda: wrap(Own(), NAMES, SHAPE, scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)),
        "set both to False",
    ),
    "a stock folder of flow matching": (lambda: load_model(flow_folder()), "give it to dualoptim_diffusion.wrap"),
    "a signal of zero": (
        lambda: wrap(Own(), NAMES, SHAPE, scheduler=scheduler("v_prediction", rescale_betas_zero_snr=True)),
        "rescale_betas_zero_snr",
    ),
    "guidance without a null class": (
        lambda: sample(wrap(Own(), NAMES, SHAPE), ["cat"], device="cpu", guidance_scale=3.0, num_inference_steps=2),
        "has no null class",
    ),
    "a mask that is guided without a null class": (
        lambda: forget(wrap(Own(), NAMES, SHAPE), dataset(), ["cat"], device="cpu", progress=False,
                       mask={"kind": "fisher_ratio", "estimator": "published"}),
        "the model has none",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_use_ends_in_one_sentence(name: str) -> None:
    act, said = WRONG[name]
    with pytest.raises(InputError, match=said) as caught:
        act()
    assert "\n" not in str(caught.value)
