"""What the benchmarks run on: the networks, random images, masks and pairs of optimizers, and SFRon's loop over them.

All use of the package by more than one benchmark is here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

DIT_SIZES = {
    "toy": (1, 2, 8),
    "S/2": (12, 6, 64),
    "B/2": (12, 12, 64),
    "L/2": (24, 16, 64),
    "XL/2": (28, 16, 72),
}  # layers, heads, head width
SMALL_UNET = {"width": 32, "multipliers": (1, 2), "layers_per_block": 1, "norm_groups": 8}
TOY_UNET = SMALL_UNET | {"size": 8, "width": 16, "attention_resolutions": (), "mid_attention": False}
Mask = dict[str, Tensor]


def load_package() -> None:
    """Imports what a step of forgetting needs."""
    import dualoptim_diffusion.runs.obtain
    import dualoptim_diffusion.unlearning.methods  # noqa: F401


def make_accelerator() -> Any:
    from dualoptim_diffusion.runs.obtain import make_accelerator

    return make_accelerator("auto")


def dit_network(size: str) -> nn.Module:
    """A DiT with the weights that it is made with, for latents of 4 x 32 x 32 and 1000 classes."""
    from dualoptim_diffusion.models import DiTModule

    layers, heads, width = DIT_SIZES[size]
    return DiTModule(num_layers=layers, num_attention_heads=heads, attention_head_dim=width)


def dit_model(network: nn.Module, vae: Any = None) -> Any:
    from dualoptim_diffusion.models import ConditionalDiT

    return ConditionalDiT(network, {i: str(i) for i in range(1000)}, vae=vae)


def randomise(network: nn.Module) -> None:
    """Random weights everywhere: a fresh DiT predicts zeros."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)


def autoencoder(channels: Sequence[int], layers: int = 2, groups: int = 32) -> Any:
    """An AutoencoderKL of 256 pixels with random weights."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=tuple(channels), layers_per_block=layers, latent_channels=4, norm_num_groups=groups,
        sample_size=256,
    )  # fmt: skip


def unet_network(size: int = 32, classes: int = 10, **parts: Any) -> nn.Module:
    """The U-Net of the paper's CIFAR-10 experiments, or one that differs from it in `parts`."""
    from dualoptim_diffusion.models import UNetModule

    return UNetModule(sample_size=size, in_channels=3, num_classes=classes, **parts)


def unet_model(device: torch.device, size: int = 32, classes: int = 10, **parts: Any) -> Any:
    """The same as a model of as many classes, on the device."""
    from dualoptim_diffusion.models import ConditionalDDPM

    return ConditionalDDPM(unet_network(size, classes, **parts).to(device), {i: str(i) for i in range(classes)})


def random_mask(network: nn.Module, density: float, source: torch.Generator | None = None) -> Mask:
    """A bool mask on so large a part of the weights."""

    def of(p: Tensor) -> Tensor:
        device = p.device if source is None else "cpu"
        return (torch.rand(p.shape, generator=source, device=device) < density).to(p.device)

    return {name: of(p) for name, p in network.named_parameters()}


def supports(mask: Mask) -> Mask:
    """The indices of the weights under the mask."""
    from dualoptim_diffusion.optim.mask_indices import indices_of

    return {name: indices_of(part) for name, part in mask.items()}


def smaller_forms(mask: Mask) -> Mask:
    """The mask as it takes the least memory."""
    from dualoptim_diffusion.optim.mask_indices import smaller_form

    return {name: smaller_form(part) for name, part in mask.items()}


def sources(
    model: Any, accelerator: Any, sets: Sequence[tuple[Tensor, Tensor]], batch_size: int
) -> list[Callable[[int], Any]]:
    """Batches of the forget and the retain set, given as images and labels; each process has its part of a batch."""
    from dualoptim_diffusion.data import Batches, ImageSet

    return [
        Batches(
            ImageSet(images, labels, model.id2label), model, seed=0, phase=phase, batch_size=batch_size,
            device=accelerator.device, process=(accelerator.process_index, accelerator.num_processes),
        )
        for (images, labels), phase in zip(sets, ("forget", "retain"), strict=True)
    ]  # fmt: skip


def optimizers(
    network: nn.Module, mask: Mask, name: str, lr: float, shared: bool = False, state: str = "full", fused: bool = False
) -> Any:
    """Two optimizers, or a shared one; `state` compact is of the forget one alone, 8bit of both."""
    from dualoptim_diffusion.optim.dual_optim import DualOptim
    from dualoptim_diffusion.optim.factory import freeze_off_mask, make_8bit_adamw, make_optimizer
    from dualoptim_diffusion.optim.masked_adamw import MaskedAdamW

    parameters = dict(network.named_parameters())

    def make() -> Any:
        weights = parameters.values()
        return make_8bit_adamw(weights, lr) if state == "8bit" else make_optimizer(name, weights, lr, fused)

    retain = make()
    if shared:
        return DualOptim(retain, retain)
    if state == "compact":
        return DualOptim(MaskedAdamW(parameters.values(), list(mask.values()), lr, fused=fused), retain)
    forget = make()
    if state == "8bit":
        freeze_off_mask(forget, parameters, mask)
    return DualOptim(forget, retain)


def sfron(
    model: Any, accelerator: Any, batches: Sequence[Callable[[int], Any]], mask: Mask, optimizers: Any,
    schedule: str = "cosine", log_cosine: bool = False,
) -> Callable[[int], None]:  # fmt: skip
    """SFRon's loop as `dualoptim forget` runs it; a function that takes so many further outer steps.

    Args:
        schedule: of the forget weight.
    """
    from dualoptim_diffusion.core.config import MethodConfig
    from dualoptim_diffusion.unlearning.loop import unlearn
    from dualoptim_diffusion.unlearning.methods import find_method, phases

    settings = MethodConfig(name="sfron", forget_weight_schedule=schedule)

    def mean(x: Tensor) -> Tensor:  # over all processes
        return accelerator.reduce(x.mean(), "mean")

    method = find_method("sfron")(settings, (0,), len(model.id2label), mean)
    loop = phases(method, model, *batches, mask)
    done = 0

    def step(count: int = 1) -> None:
        nonlocal done
        unlearn(
            model.network, optimizers, loop, done + count,
            first_step=done, accelerator=accelerator, log_cosine=log_cosine,
        )  # fmt: skip
        done += count

    return step


def drawer(
    model: Any, batch_size: int, steps: int, guidance_scale: float, predict: Callable[..., Tensor] | None = None
) -> Callable[[], Tensor]:
    """A function that draws one batch of x_0 with guidance, by DDIM."""
    from dualoptim_diffusion.diffusion.sampling import draw, make_scheduler

    device = next(model.network.parameters()).device
    model.network.eval()
    numbers = list(range(batch_size))
    labels = [i % model.num_classes for i in numbers]

    def work() -> Tensor:
        return draw(
            predict or model.predict, make_scheduler("ddim"), model.x_0_shape, labels, numbers, steps, guidance_scale,
            device,
        )  # fmt: skip

    return work
