"""What does a forgetting step of the CIFAR-10 U-Net cost beside the loop one would write first? Measures seconds and
peak memory of SFRon with two Adams, a mask on a tenth of the weights, one forget and one retain step, batches of 8
(128 on a GPU). The plain loop is written out in this file: fp32, dense moments, the mask as a factor, every value
logged at once. Both loops are first run side by side on a small U-Net in float64 and must end with the same weights.
On a CPU every row is a process of its own; ratios are to the plain loop of the same run. "Memory kept" means that the
C library gives no freed memory back to the system, which takes time when it is needed again. Writes
unet_step_DEVICE.json and .md after each row, with profiles at the end.

    python scripts/benchmarks/unet_step.py
"""

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from benchmarks import setup
from benchmarks.measuring import (
    FLOP_OF_UNET,
    NOT_MEASURED,
    Benchmark,
    Found,
    Profiled,
    bytes_of_libraries,
    cast,
    parse,
    parser,
    peak_bytes,
    profile,
    ratio,
    there,
    told,
)
from machine import REPEATS, kind, matmul_rates, timed, where
from tables import table

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
    shared: bool = False
    graphs: bool = False

    @property
    def name(self) -> str:
        states = "one optimizer" if self.shared else f"{self.state} states"
        words = ["plain loop", "fp32"] if self.plain else ["ours", self.precision, states]
        words += ["fused"] * self.fused + ["channels_last"] * self.channels_last + ["compiled"] * self.compiled
        words += ["CUDA graphs"] * self.graphs
        return ", ".join(words + ["memory kept"] * self.memory_kept)

    @property
    def needs(self) -> str | None:
        return "bitsandbytes" if self.state == "8bit" else None

    @property
    def takes(self) -> float:
        return 50 if self.compiled else 0

    @property
    def environment(self) -> dict[str, str]:
        return KEEP if self.memory_kept else {}


@dataclass(frozen=True)
class Equality:
    """Both loops side by side."""

    name: str = "difference of the weights"
    part: ClassVar[str] = "equality"
    alone: ClassVar[bool] = True


WAYS = (  # most telling first
    Way(plain=True),
    Way(state="compact", fused=True, precision="bf16", channels_last=True),
    Way(state="compact", fused=True),
    Way(),
    Way(state="compact"),
    Way(state="compact", fused=True, precision="bf16"),
    Way(state="8bit"),
)
COMPILED = (
    Way(state="compact", fused=True, precision="bf16", channels_last=True, compiled=True),
    Way(state="compact", fused=True, compiled=True),
)
FAST = {"precision": "bf16", "fused": True}
WAYS_ON_GPU = (
    Way(plain=True),
    Way(**FAST, channels_last=True, compiled=True, graphs=True),
    Way(**FAST),
    Way(**FAST, shared=True),
    Way(**FAST, graphs=True),
    Way(**FAST, shared=True, graphs=True),
    Way(**FAST, state="compact", graphs=True),
    Way(),
    Way(**FAST, channels_last=True, graphs=True),
    Way(fused=True, graphs=True),
    Way(**FAST, channels_last=True, compiled=True),
)
WAYS_ON_CPU = (Way(plain=True, memory_kept=True),)  # as ours always is

TOY_WAYS = (Way(plain=True), Way(state="compact", fused=True), Way(precision="bf16"))


def setting(parts: dict[str, Any], batch_size: int) -> tuple[Any, Any, list[Any], setup.Mask]:
    """Accelerator, model, the two sources of batches and a bool mask."""
    accelerator = setup.make_accelerator()
    torch.manual_seed(0)
    model = setup.unet_model(accelerator.device, **parts)
    source = torch.Generator().manual_seed(1)
    size = parts.get("size", 32)
    images = torch.randint(256, (2000, 3, size, size), dtype=torch.uint8, generator=source)
    mask = setup.random_mask(model.network, DENSITY, source)
    sets = [(images, torch.full((len(images),), label)) for label in (0, 1)]
    return accelerator, model, setup.sources(model, accelerator, sets, batch_size), mask


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
        )[0]
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


def our_loop(way: Way, accelerator: Any, model: Any, sources: list[Any], mask: setup.Mask) -> Callable[[int], None]:
    """The step as `dualoptim forget` takes it."""
    from dualoptim_diffusion.core.allocator import keep_freed_memory

    if not torch.cuda.is_available():
        keep_freed_memory()
    model.prepare(accelerator, way.precision, way.channels_last, way.compiled)
    model.network.train()
    if way.graphs:
        model.capture_training(sources[0].batch_size)
    indices = (setup.supports if way.state == "compact" else setup.smaller_forms)(mask)
    pair = setup.optimizers(model.network, indices, "adam", LR, way.shared, way.state, way.fused)
    advance = setup.sfron(model, accelerator, sources, indices, pair, schedule="constant")
    return lambda k: advance(1)


def check_equal(parts: dict[str, Any]) -> float:
    """Largest difference of the weights that both loops end with after three steps of a small U-Net, in float64."""
    ends = []
    for plain in (True, False):
        accelerator, model, sources, mask = setting(parts, batch_size=2)
        model.network.double()
        sources = [cast(source, torch.float64) for source in sources]
        step = plain_loop(model.network, sources, mask) if plain else our_loop(Way(), accelerator, model, sources, mask)
        for k in range(3):
            step(k)
        ends.append([p.detach().clone() for p in model.network.parameters()])
    return max(float((a - b).abs().max()) for a, b in zip(*ends, strict=True))


def measure(batch_size: int, parts: dict[str, Any], row: Way | Equality | Profiled) -> Found:
    """Seconds a step, of them in the system, and peak bytes of one way, libraries left out; or what else the row is."""
    if isinstance(row, Equality):
        return {"seconds": 0.0, "largest": check_equal(parts or setup.SMALL_UNET)}
    way, before = row.way if isinstance(row, Profiled) else row, bytes_of_libraries()
    accelerator, model, sources, mask = setting(parts, batch_size)
    step = plain_loop(model.network, sources, mask) if way.plain else our_loop(way, accelerator, model, sources, mask)
    done = iter(range(1000))
    if isinstance(row, Profiled):
        step(next(done))
        return {"seconds": 0.0, "profile": profile(lambda: step(next(done)))}
    seconds = timed(lambda: step(next(done)))
    found: Found = {"seconds": seconds, "peak_bytes": peak_bytes(before)}
    if kind() == "cpu":
        before_them = resource.getrusage(resource.RUSAGE_SELF).ru_stime
        for _ in range(REPEATS):
            step(next(done))
        found["system_seconds"] = (resource.getrusage(resource.RUSAGE_SELF).ru_stime - before_them) / REPEATS
    return found


def best_of(rows: Sequence[Found]) -> Found | None:
    """The fastest of our ways."""
    return min((row for row in there(rows) if not row["plain"]), key=lambda row: row["seconds"], default=None)


def cells(row: Found, content: Found) -> list[str]:
    plain = content["rows"][0]
    if row["seconds"] is None:
        return [row["name"], row["problem"], "", "", "", "", ""]
    work = 2 * 3 * FLOP_OF_UNET * content["batch_size"]  # two phases, each forward and backward
    return [
        row["name"], f"{row['seconds']:.3f}", ratio(plain, row), f"{row['peak_bytes'] / 1e9:.2f} GB",
        ratio(row, plain, "peak_bytes"),
        f"{work / row['seconds'] / content['matmul_flop_per_second'][row['precision']]:.0%}",
        f"{row['system_seconds']:.2f}" if "system_seconds" in row else "",
    ]  # fmt: skip


def tabulate(content: Found) -> str:
    head = [
        "step", "seconds", "times the plain loop's rate", "peak", "of the plain loop's", "of the matmul rate",
        "system, s",
    ]  # fmt: skip
    equality = content.get("equality", {"problem": NOT_MEASURED})
    differ = equality.get("problem") or f"they differ by at most {equality['largest']:.1e}"
    lines = [
        f"# A forgetting step of the CIFAR-10 U-Net, batch {content['batch_size']}", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}; median of up to {REPEATS} steps. Weights of the two loops "
        f"after three steps of a small U-Net in float64: {differ}.", "",
        *table(head, [cells(row, content) for row in content["rows"]]),
    ]  # fmt: skip
    for found in there(content.get("profiles", [])):
        lines += ["", f"Profile, {found['name']}: {told(found['profile'])}."]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(parser(__file__, __doc__), words)
    batch_size, parts, on_gpu = 128 if kind() == "gpu" else 8, {}, kind() == "gpu"
    ways: tuple[Any, ...] = (*WAYS_ON_GPU, Equality()) if on_gpu else (*WAYS, Equality(), *COMPILED, *WAYS_ON_CPU)
    if arguments.toy:
        batch_size, parts, ways = 2, setup.TOY_UNET, (*TOY_WAYS, Equality())
    content = {
        "command": "python scripts/benchmarks/unet_step.py",
        **where(),
        "batch_size": batch_size,
        "flop_of_forward": FLOP_OF_UNET,
        "matmul_flop_per_second": matmul_rates(arguments.toy),
    }
    benchmark = Benchmark(arguments, "unet_step", content, tabulate)
    work = partial(measure, batch_size, parts)
    benchmark.run(ways, work)
    best = best_of(content["rows"])
    names = {ways[0].name, *([best["name"]] if best else [])}
    benchmark.run([Profiled(way) for way in ways if way.name in names], work)
    benchmark.end()


if __name__ == "__main__":
    main()
