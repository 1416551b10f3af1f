"""A forgetting step of the CIFAR-10 U-Net beside the loop one would write first: seconds and peak memory.

    python scripts/benchmarks/unet_step.py

SFRon with two Adams, a mask on a tenth of the weights, one forget and one retain step, batches of 8 (128 on a GPU). The
plain loop is written out below: fp32, dense moments, the mask as a factor, every value logged when it is there. Both
loops are first run side by side on a small U-Net in float64 and must end with the same weights. Every row is a process
of its own; ratios are to the plain loop of the same run. "Memory kept": the C library gives no freed memory back, which
costs time in the system when it is taken anew. Results: unet_step_DEVICE.json and .md, with two profiles.
"""

import argparse
import os
import resource
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measuring import (
    FLOP_OF_UNET,
    REPEATS,
    bytes_of_libraries,
    cast,
    matmul_rate,
    peak_bytes,
    place,
    profile,
    row,
    timed,
    told,
    where,
    write_results,
)
from torch import Tensor, nn
from tqdm import tqdm

DENSITY, LR, CLIP = 0.1, 1e-4, 1.0
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}  # glibc reads them as it starts


@dataclass(frozen=True)
class Way:
    """One way to take the step."""

    plain: bool = False
    state: str = "full"
    precision: str = "fp32"
    fused: bool = False
    channels_last: bool = False
    compiled: bool = False
    memory_kept: bool = False

    @property
    def name(self) -> str:
        words = ["plain loop", "fp32"] if self.plain else ["ours", self.precision, f"{self.state} states"]
        words += ["fused"] * self.fused + ["channels_last"] * self.channels_last + ["compiled"] * self.compiled
        return ", ".join(words + ["memory kept"] * self.memory_kept)


WAYS = (
    Way(plain=True),
    Way(),
    Way(state="compact"),
    Way(state="compact", fused=True),
    Way(state="8bit"),
    Way(state="compact", fused=True, compiled=True),
    Way(state="compact", fused=True, precision="bf16"),
    Way(state="compact", fused=True, precision="bf16", channels_last=True),
    Way(state="compact", fused=True, precision="bf16", channels_last=True, compiled=True),
)
WAYS_ON_CPU = (
    Way(plain=True, memory_kept=True),
    Way(memory_kept=True),
    Way(state="compact", fused=True, memory_kept=True),
    Way(state="compact", fused=True, precision="bf16", memory_kept=True),
)


def setting(small: bool, batch_size: int) -> tuple[Any, Any, list[Any], dict[str, Tensor]]:
    """Accelerator, model, the two sources of batches and a bool mask."""
    from dualoptim_diffusion.data import Batches, ImageSet
    from dualoptim_diffusion.models import ConditionalDDPM, ConditionalUNet
    from dualoptim_diffusion.runs.obtain import make_accelerator

    accelerator = make_accelerator("auto")
    torch.manual_seed(0)
    parts = {"width": 32, "multipliers": (1, 2), "layers_per_block": 1, "norm_groups": 8} if small else {}
    names = {i: str(i) for i in range(10)}
    network = ConditionalUNet(sample_size=32, in_channels=3, num_classes=10, **parts).to(accelerator.device)
    model = ConditionalDDPM(network, names)
    source = torch.Generator().manual_seed(1)
    images = torch.randint(256, (2000, 3, 32, 32), dtype=torch.uint8, generator=source)
    mask = {
        name: (torch.rand(p.shape, generator=source) < DENSITY).to(p.device) for name, p in network.named_parameters()
    }
    sets = [ImageSet(images, torch.full((len(images),), label), names) for label in (0, 1)]
    sources = [
        Batches(part, model, seed=0, phase=phase, batch_size=batch_size, device=accelerator.device)
        for part, phase in zip(sets, ("forget", "retain"), strict=True)
    ]
    return accelerator, model, sources, mask


def plain_loop(network: nn.Module, sources: list[Any], mask: dict[str, Tensor]) -> Callable[[int], None]:
    """The step as one writes it first, and as research code has it."""
    parameters = list(network.parameters())
    optimizers = [torch.optim.Adam(parameters, lr=LR) for _ in range(2)]
    factors = {name: part.float() for name, part in mask.items()}
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).to(parameters[0].device)
    logged: list[dict[str, float]] = []
    network.train()

    def losses_of(batch: Any) -> Tensor:
        a = abar[batch.timesteps].view(-1, 1, 1, 1)
        noise_pred = network(
            a.sqrt() * batch.x_0 + (1 - a).sqrt() * batch.noise, batch.timesteps, batch.dropped_labels
        ).sample
        return (batch.noise - noise_pred).square().flatten(1).sum(1)

    def step(k: int) -> None:
        forget = sources[0](k)
        losses = losses_of(forget)
        weights = 1 / (losses.detach().sqrt() + 1e-8)
        loss = -(weights / weights.mean() * losses).mean()
        optimizers[0].zero_grad()
        loss.backward()
        for name, p in network.named_parameters():
            p.grad *= factors[name]
        norm = nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizers[0].step()
        logged.append({"forget_loss": loss.item(), "forget_grad_norm": norm.item()})

        retain = sources[1](k)
        loss = losses_of(retain).mean()
        optimizers[1].zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizers[1].step()
        logged.append({"retain_loss": loss.item(), "retain_grad_norm": norm.item()})

    return step


def our_loop(
    way: Way, accelerator: Any, model: Any, sources: list[Any], mask: dict[str, Tensor]
) -> Callable[[int], None]:
    """The step as `dualoptim forget` takes it."""
    from dualoptim_diffusion.core.config import MethodConfig
    from dualoptim_diffusion.optim.dual_optim import DualOptim
    from dualoptim_diffusion.optim.factory import freeze_off_mask, make_8bit_adamw, make_optimizer
    from dualoptim_diffusion.optim.mask_indices import smaller_form, support_of
    from dualoptim_diffusion.optim.masked_adamw import MaskedAdamW
    from dualoptim_diffusion.unlearning.loop import unlearn
    from dualoptim_diffusion.unlearning.methods import find_method, phases

    network = model.network
    model.prepare(accelerator, way.precision, way.channels_last, way.compiled)
    network.train()
    parameters = dict(network.named_parameters())
    places = {name: (support_of if way.state == "compact" else smaller_form)(part) for name, part in mask.items()}
    if way.state == "8bit":
        pair = [make_8bit_adamw(parameters.values(), LR) for _ in range(2)]
        freeze_off_mask(pair[0], parameters, places)
    else:
        pair = [make_optimizer("adam", parameters.values(), LR, way.fused) for _ in range(2)]
    if way.state == "compact":
        pair[0] = MaskedAdamW(parameters.values(), list(places.values()), LR, fused=way.fused)
    settings = MethodConfig(name="sfron", forget_weight_schedule="constant")
    method = find_method("sfron")(settings, (0,), 10, lambda x: x.mean())
    loop, optimizers = phases(method, model, *sources, places), DualOptim(*pair)

    def step(k: int) -> None:
        unlearn(network, optimizers, loop, k + 1, first_step=k, accelerator=accelerator, log_cosine=False)

    return step


def check_equal() -> float:
    """Largest difference of the weights that both loops end with after three steps of a small U-Net, in float64."""
    ends = []
    for plain in (True, False):
        accelerator, model, sources, mask = setting(small=True, batch_size=8)
        model.network.double()
        sources = [cast(source, torch.float64) for source in sources]
        step = plain_loop(model.network, sources, mask) if plain else our_loop(Way(), accelerator, model, sources, mask)
        for k in range(3):
            step(k)
        ends.append([p.detach().clone() for p in model.network.parameters()])
    return max(float((a - b).abs().max()) for a, b in zip(*ends, strict=True))


def measure(arguments: tuple[Way, int]) -> dict[str, Any]:
    """Seconds a step, of them in the system, and peak bytes of one way, in a process of its own, libraries left out."""
    way, batch_size = arguments
    before = bytes_of_libraries()
    accelerator, model, sources, mask = setting(False, batch_size)
    step = plain_loop(model.network, sources, mask) if way.plain else our_loop(way, accelerator, model, sources, mask)
    done = iter(range(1000))
    seconds = timed(lambda: step(next(done)))
    found = asdict(way) | {"name": way.name, "seconds": seconds, "peak_bytes": peak_bytes() - before}
    before_them = resource.getrusage(resource.RUSAGE_SELF).ru_stime
    for _ in range(REPEATS):
        step(next(done))
    found["system_seconds"] = (resource.getrusage(resource.RUSAGE_SELF).ru_stime - before_them) / REPEATS
    return found | {"profile": profile(lambda: step(next(done)))}


def tabulate(content: dict[str, Any]) -> str:
    rows, rates, batch_size = content["rows"], content["matmul_flop_per_second"], content["batch_size"]
    plain = rows[0]
    lines = [
        f"# A forgetting step of the CIFAR-10 U-Net, batch {batch_size}", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}; median of up to {REPEATS} steps. After three steps of a small "
        f"U-Net in float64 the weights of the two loops differ by at most {content['largest_difference']:.1e}.", "",
        row([
            "step", "seconds", "times the plain loop's rate", "peak", "of the plain loop's", "of the matmul rate",
            "system, s",
        ]),
        row(["---"] * 7),
    ]  # fmt: skip
    for found in rows:
        work = 2 * 3 * FLOP_OF_UNET * batch_size  # two phases, each forward and backward
        lines.append(
            row([
                found["name"], f"{found['seconds']:.3f}", f"{plain['seconds'] / found['seconds']:.2f}",
                f"{found['peak_bytes'] / 1e9:.2f} GB", f"{found['peak_bytes'] / plain['peak_bytes']:.2f}",
                f"{work / found['seconds'] / rates[found['precision']]:.0%}", f"{found['system_seconds']:.2f}",
            ])
        )  # fmt: skip
    best = min(rows[1:], key=lambda found: found["seconds"])
    for found in (plain, best):
        lines += ["", f"Profile, {found['name']}: {told(found['profile'])}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    batch_size = 128 if place() == "gpu" else 8
    rows = []
    with get_context("spawn").Pool(1) as pool:
        largest = pool.apply(check_equal)
    for ways, environment in ((WAYS, {}), (() if place() == "gpu" else WAYS_ON_CPU, KEEP)):
        with patch.dict(os.environ, environment), get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            arguments_of = [(way, batch_size) for way in ways]
            for found in tqdm(pool.imap(measure, arguments_of, chunksize=1), total=len(ways), unit="row"):
                rows.append(found)
                tqdm.write(f"{found['name']}: {found['seconds']:.3f} s")
    content = {
        "command": "python scripts/benchmarks/unet_step.py",
        **where(),
        "batch_size": batch_size,
        "largest_difference": largest,
        "matmul_flop_per_second": {"fp32": matmul_rate(torch.float32), "bf16": matmul_rate(torch.bfloat16)},
        "rows": rows,
    }
    write_results(arguments.out, "unet_step", content, tabulate)


if __name__ == "__main__":
    main()
