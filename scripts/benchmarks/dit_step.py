"""What a forgetting step of a DiT costs: seconds, peak memory, share of the device's matmul rate; and drawing.

    python scripts/benchmarks/dit_step.py                 # DiT-XL/2 with random weights; for a GPU of 40 GB or more
    python scripts/benchmarks/dit_step.py --size S/2      # 33 M parameters; minutes on a CPU

SFRon with one shared AdamW and with two, a mask on a tenth of the weights, full and compact state, batches of 1 and 8,
fp32 and bf16 passes, with and without gradient checkpointing, from kept latents and from images encoded at each step.
Every row is a process of its own, so that its peak is its own; ratios are to the first row of the same run.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from measuring import (
    REPEATS,
    bytes_of_libraries,
    matmul_rate,
    peak_bytes,
    synchronise,
    timed,
    where,
    write_results,
)
from tqdm import tqdm

SIZES = {
    "S/2": (12, 6, 64),
    "B/2": (12, 12, 64),
    "L/2": (24, 16, 64),
    "XL/2": (28, 16, 72),
}  # layers, heads, head width
DENSITY = 0.1
DRAWN, STEPS = 8, 50  # images, DDIM steps


@dataclass(frozen=True)
class Row:
    """One way to take the step."""

    mode: str = "shared"
    state: str = "full"
    batch_size: int = 1
    precision: str = "fp32"
    checkpointing: bool = False
    latents: str = "kept"
    log_cosine: bool = False

    @property
    def name(self) -> str:
        parts = [self.mode, *([self.state] if self.mode == "dual" else []), f"batch {self.batch_size}", self.precision]
        parts += ["checkpointing"] if self.checkpointing else []
        parts += ["cosine logged"] if self.log_cosine else []
        return ", ".join([*parts, f"{self.latents} latents" if self.latents == "kept" else "encoding each step"])


ROWS = (
    Row(),
    Row("dual"),
    Row("dual", "compact"),
    Row("dual", "compact", log_cosine=True),
    Row("dual", "compact", latents="encoded"),
    Row("dual", "compact", precision="bf16"),
    Row("shared", batch_size=8),
    Row("dual", "full", 8),
    Row("dual", "compact", 8),
    Row("dual", "compact", 8, checkpointing=True),
    Row("shared", "full", 8, "bf16"),
    Row("dual", "compact", 8, "bf16"),
    Row("dual", "compact", 8, "bf16", checkpointing=True),
    Row("dual", "compact", 8, "bf16", latents="encoded"),
)


def build(size: str, row: Row) -> tuple[Any, Any, Callable[[int], None]]:
    """The accelerator, the model, and a function that takes so many steps."""
    from diffusers import AutoencoderKL

    from dualoptim_diffusion.core.config import MethodConfig
    from dualoptim_diffusion.data import Batches, ImageSet
    from dualoptim_diffusion.models import ConditionalDiT, DiT
    from dualoptim_diffusion.optim.dual_optim import DualOptim
    from dualoptim_diffusion.optim.factory import make_optimizer
    from dualoptim_diffusion.optim.mask_indices import support_of
    from dualoptim_diffusion.optim.masked_adamw import MaskedAdamW
    from dualoptim_diffusion.runs.obtain import make_accelerator
    from dualoptim_diffusion.unlearning.loop import unlearn
    from dualoptim_diffusion.unlearning.methods import find_method, phases

    accelerator = make_accelerator("auto")
    device = accelerator.device
    torch.manual_seed(0)
    layers, heads, width = SIZES[size]
    with device:
        network = DiT(num_layers=layers, num_attention_heads=heads, attention_head_dim=width)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        vae = None if row.latents == "kept" else AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=256,
        )  # fmt: skip
        mask = {name: support_of(torch.rand_like(p) < DENSITY) for name, p in network.named_parameters()}
    model = ConditionalDiT(network, {i: str(i) for i in range(1000)}, vae=vae)
    if row.checkpointing:
        model.checkpoint_gradients()
    model.prepare(accelerator, row.precision)
    network.train()
    images = torch.randn(64, 4, 32, 32) if vae is None else torch.randint(256, (16, 3, 256, 256), dtype=torch.uint8)
    dataset = ImageSet(images, torch.arange(len(images)), model.id2label)
    settings = MethodConfig(name="sfron")
    method = find_method("sfron")(settings, (0,), 1000, lambda x: x.mean())
    sources = [
        Batches(dataset, model, seed=0, phase=phase, batch_size=row.batch_size, device=device)
        for phase in ("forget", "retain")
    ]
    parameters = list(network.parameters())
    retain = make_optimizer("adamw", parameters, 1e-7)
    forget = retain
    if row.mode == "dual" and row.state == "compact":
        forget = MaskedAdamW(parameters, list(mask.values()), 1e-7)
    elif row.mode == "dual":
        forget = make_optimizer("adamw", parameters, 1e-7)
    optimizers = DualOptim(forget, retain)
    loop = phases(method, model, *sources, mask)
    done = 0

    def step(count: int) -> None:
        nonlocal done
        unlearn(
            network, optimizers, loop, done + count,
            first_step=done, accelerator=accelerator, log_cosine=row.log_cosine,
        )  # fmt: skip
        done += count

    return accelerator, model, step


def measure(arguments: tuple[str, Row]) -> dict[str, Any]:
    """Seconds a step and peak bytes of one row, in a process of its own; without what the libraries take."""
    size, row = arguments
    before = bytes_of_libraries()
    try:
        _, model, step = build(size, row)
        seconds = timed(lambda: step(1))
    except torch.cuda.OutOfMemoryError:
        return asdict(row) | {"name": row.name, "seconds": None, "peak_bytes": None}
    parameters = sum(p.numel() for p in model.network.parameters())
    peak = peak_bytes() - before
    return asdict(row) | {"name": row.name, "seconds": seconds, "peak_bytes": peak, "parameters": parameters}


def draw_rate(arguments: tuple[str, str]) -> dict[str, Any]:
    """Images a second of guided DDIM sampling, latents alone."""
    from dualoptim_diffusion.diffusion.sampling import draw, make_scheduler

    size, precision = arguments
    accelerator, model, _ = build(size, Row(precision=precision))
    model.network.eval()
    labels, seeds = list(range(DRAWN)), list(range(DRAWN))

    def work() -> None:
        draw(
            model.predict, make_scheduler("ddim"), model.x_0_shape, labels, seeds, STEPS, 1.5, device=accelerator.device
        )

    synchronise()
    work()
    start = perf_counter()
    work()
    synchronise()
    return {"precision": precision, "images_per_second": DRAWN / (perf_counter() - start), "steps": STEPS}


def flop_of_forward(size: str) -> int:
    """FLOP of a forward pass of one image."""
    from torch.utils.flop_counter import FlopCounterMode

    from dualoptim_diffusion.models import DiT

    layers, heads, width = SIZES[size]
    with torch.device("meta"):
        network = DiT(num_layers=layers, num_attention_heads=heads, attention_head_dim=width)
        inputs = torch.empty(1, 4, 32, 32), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops()


def tabulate(content: dict[str, Any]) -> str:
    rows, rates, flop = content["rows"], content["matmul_flop_per_second"], content["flop_of_forward"]
    first = rows[0]
    lines = [
        f"# A forgetting step of DiT-{content['size']} ({first['parameters'] / 1e6:.1f} M parameters)", "",
        f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}. SFRon, mask on {DENSITY:.0%} of the weights, one forget and "
        f"one retain step; median of up to {REPEATS}. Ratios are to the first row.", "",
        "| step | seconds | of the first's time | peak | of the first's peak | share of the matmul rate |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in rows:
        if row["seconds"] is None:
            lines.append(f"| {row['name']} | out of memory | | | | |")
            continue
        work = 2 * 3 * flop * row["batch_size"]  # two phases, each forward and backward
        share = work / row["seconds"] / rates[row["precision"]]
        lines.append(
            f"| {row['name']} | {row['seconds']:.3f} | {row['seconds'] / first['seconds']:.2f} | "
            f"{row['peak_bytes'] / 1e9:.2f} GB | {row['peak_bytes'] / first['peak_bytes']:.2f} | {share:.0%} |"
        )
    lines += [
        "", "Matmul rate: " + ", ".join(f"{k} {v / 1e12:.2f} TFLOP/s" for k, v in rates.items())
        + f". A forward pass of an image takes {flop / 1e9:.1f} GFLOP.", "",
        f"Drawing {DRAWN} latents in {STEPS} guided DDIM steps: "
        + ", ".join(f"{d['precision']} {d['images_per_second']:.2f} images/s" for d in content["drawing"]) + ".",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="XL/2")
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    size = arguments.size
    rows = []
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for row in tqdm(pool.imap(measure, [(size, row) for row in ROWS], chunksize=1), total=len(ROWS), unit="row"):
            rows.append(row)
            tqdm.write(f"{row['name']}: {row['seconds']} s, {row['peak_bytes']} bytes")
        drawing = pool.map(draw_rate, [(size, "fp32"), (size, "bf16")], chunksize=1)
    content = {
        "command": "python scripts/benchmarks/dit_step.py" + ("" if size == "XL/2" else f" --size {size}"),
        "size": size,
        **where(),
        "flop_of_forward": flop_of_forward(size),
        "matmul_flop_per_second": {"fp32": matmul_rate(torch.float32), "bf16": matmul_rate(torch.bfloat16)},
        "rows": rows,
        "drawing": drawing,
    }
    write_results(arguments.out, f"dit_step_{size.replace('/', '_')}", content, tabulate)


if __name__ == "__main__":
    main()
