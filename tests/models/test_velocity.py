"""SiT and REPA: transformers that predict a velocity, as networks of the noise that it implies."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dualoptim_diffusion import forget, load_model, sample
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.models import ConditionalDiT
from dualoptim_diffusion.models.dit_module import DiTModule
from dualoptim_diffusion.models.published_dit import export_published_dit, import_published_dit
from tests.helpers.commands import Outcome
from tests.helpers.dit import CHANNELS, CLASSES, HEADS, LAYERS, PATCH, SIDE, WIDTH, original_weights, tiny_vae
from tests.models.test_dit import original_forward

Run = Callable[..., Outcome]
LAST = "final_layer.linear"
ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
SIGMAS = (1 - ABAR).sqrt() / (ABAR.sqrt() + (1 - ABAR).sqrt())  # of noise, on the straight path


def repa_weights() -> dict[str, Tensor]:
    """Half the channels out, and the projectors that training leaves behind."""
    weights = original_weights()
    for name in (f"{LAST}.weight", f"{LAST}.bias"):
        weights[name] = weights[name].unflatten(0, (PATCH**2, 2 * CHANNELS))[:, :CHANNELS].flatten(0, 1)
    return weights | {"projectors.0.0.weight": torch.zeros(3, WIDTH)}


FORMS = {"sit": original_weights(), "repa": repa_weights()}


def saved(folder: Path, form: str) -> Path:
    save_file({name: value.contiguous() for name, value in FORMS[form].items()}, folder / f"{form}.safetensors")
    return folder / f"{form}.safetensors"


def velocity(form: str, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    """noise - x_0 as the published code predicts it at (1 - sigma) x_0 + sigma noise."""
    weights = FORMS[form]
    if form == "repa":  # time is sigma; the reference below takes twice the channels
        weights = {n: v for n, v in weights.items() if not n.startswith("projectors.")}
        for name in (f"{LAST}.weight", f"{LAST}.bias"):
            value = weights[name].unflatten(0, (PATCH**2, CHANNELS))
            weights[name] = torch.cat([value, value], 1).flatten(0, 1)
        return original_forward(weights, x, sigma, labels)[:, :CHANNELS]
    return -original_forward(weights, x, 1 - sigma, labels)[:, :CHANNELS]  # time 1 is data; half is not used


@pytest.mark.numerical
@pytest.mark.parametrize("form", FORMS)
def test_the_noise_is_that_of_the_published_velocity_at_equal_signal_and_noise(form: str, tmp_path: Path) -> None:
    network = import_published_dit(saved(tmp_path, form), num_heads=HEADS, form=form).network.double()
    t, labels = torch.tensor([0, 20, 400, 999]), torch.tensor([0, 2, 4, CLASSES])
    x_t = torch.randn(4, CHANNELS, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a, s, sigma = (part[t].view(-1, 1, 1, 1) for part in (ABAR.sqrt(), (1 - ABAR).sqrt(), SIGMAS))
    x = x_t / (a + s)
    expected = x + (1 - sigma) * velocity(form, x, sigma.flatten(), labels)
    with torch.no_grad():
        found = network(x_t, t, labels)[0]
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()  # time features are float32 in both


@pytest.mark.parametrize("form", FORMS)
def test_ddim_steps_are_euler_steps_of_the_published_sampler(form: str, tmp_path: Path) -> None:
    network = import_published_dit(saved(tmp_path, form), num_heads=HEADS, form=form).network
    model = ConditionalDiT(network, {i: str(i) for i in range(CLASSES)})
    steps, scheduler = 10, model.make_scheduler()
    scheduler.set_timesteps(steps)
    sigmas = [*SIGMAS[scheduler.timesteps], torch.tensor(0.0)]
    x_t = torch.randn(1, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    x = x_t.double() / (ABAR[999].sqrt() + (1 - ABAR[999]).sqrt())
    label = torch.tensor([2])
    with torch.no_grad():
        for t in scheduler.timesteps:
            x_t = scheduler.step(model.predict(x_t, t[None], label), t, x_t).prev_sample
        for sigma, below in pairwise(sigmas):
            x = x + (below - sigma) * velocity(form, x, sigma[None], label)
    assert (x_t - x).abs().max() < 1e-3 * x.abs().max()


@pytest.mark.parametrize("form", FORMS)
def test_an_imported_network_forgets_and_is_loaded_again_with_what_it_predicts(
    form: str, tmp_path: Path, dualoptim: Run
) -> None:
    tiny_vae().save_pretrained(tmp_path / "vae")
    words = ["--num-heads", HEADS, "--vae", tmp_path / "vae", "--class-names", "a,b,c,d,e"]
    words += ["--form", "sit"] * (form == "sit")
    done = dualoptim("import", saved(tmp_path, form), *words, "--out", tmp_path / "base")
    assert done.code == 0, done.err
    model = load_model(tmp_path / "base")
    assert model.network.velocity == {"sit": "to_data", "repa": "to_noise"}[form]
    assert not model.learned_variance
    images = torch.randint(256, (10, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings = {"num_steps": 2, "batch_size": 4, "progress": False, "device": "cpu", "mask": None}
    result = forget(model, (images, torch.arange(10) % 5), ["c"], **settings)
    result.save(tmp_path / "out")
    again = load_model(tmp_path / "out" / "model")
    quick = {"device": "cpu", "num_inference_steps": 3, "guidance_scale": 2.0}
    assert torch.equal(sample(again, ["d"], **quick)[3], sample(result.model, ["d"], **quick)[3])


def test_the_other_half_of_a_sit_s_channels_is_left_out_and_the_rest_is_exported_as_it_was(tmp_path: Path) -> None:
    network = import_published_dit(saved(tmp_path, "sit"), num_heads=HEADS, form="sit").network
    exported = export_published_dit(network)
    kept = original_weights()[f"{LAST}.weight"].unflatten(0, (PATCH**2, 2 * CHANNELS))[:, :CHANNELS]
    assert torch.equal(exported[f"{LAST}.weight"], kept.flatten(0, 1))
    same = exported.keys() - {f"{LAST}.weight", f"{LAST}.bias"}
    assert all(torch.allclose(exported[name], original_weights()[name], atol=1e-6) for name in same)


def test_what_cannot_be_is_one_sentence(tmp_path: Path, dualoptim: Run) -> None:
    with pytest.raises(ValueError, match="velocity is 'to_data' with 8 channels"):
        DiTModule(SIDE, CHANNELS, 2 * CHANNELS, CLASSES, LAYERS, HEADS, WIDTH // HEADS, PATCH, velocity="to_data")
    normed = FORMS["repa"] | {"blocks.0.attn.q_norm.weight": torch.ones(8)}
    save_file({name: value.contiguous() for name, value in normed.items()}, tmp_path / "normed.safetensors")
    with pytest.raises(InputError, match="normalises queries and keys"):
        import_published_dit(tmp_path / "normed.safetensors", num_heads=HEADS)
    network = import_published_dit(saved(tmp_path, "sit"), num_heads=HEADS, form="sit").network
    with pytest.raises(InputError, match="no form in diffusers"):
        ConditionalDiT(network, {i: str(i) for i in range(CLASSES)}, vae=tiny_vae()).save_stock(tmp_path / "stock")
