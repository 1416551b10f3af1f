"""What does a forgetting step of a DiT cost? Measures seconds, peak memory, the share of the device's matmul rate, and
the rate of drawing. SFRon runs with one shared AdamW and with two, a mask on a tenth of the weights, full and
compact state, batches of 1 and 8, fp32 and bf16 passes, with and without gradient checkpointing, from kept latents
and from images that are encoded at each step. Every row is a process of its own, so that its peak is its own; ratios
are to the first row of the same run. The default is DiT-XL/2 with random weights, for a GPU of 40 GB or more. Writes
dit_step_SIZE_DEVICE.json and .md.

    python scripts/benchmarks/dit_step.py
    python scripts/benchmarks/dit_step.py --size S/2      # 33 M parameters; minutes on a CPU
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from benchmarks import setup
from benchmarks.measuring import bytes_of_libraries, one_by_one, peak_bytes, write_results
from command import parse, parser
from machine import REPEATS, matmul_rates, synchronise, timed, where
from tables import table

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
    accelerator = setup.make_accelerator()
    torch.manual_seed(0)
    with accelerator.device:
        setup.randomise(network := setup.dit_network(size))
        vae = None if row.latents == "kept" else setup.autoencoder((128, 256, 512, 512))
        mask = setup.supports(setup.random_mask(network, DENSITY))
    model = setup.dit_model(network, vae)
    if row.checkpointing:
        model.checkpoint_gradients()
    model.prepare(accelerator, row.precision)
    network.train()
    images = torch.randn(64, 4, 32, 32) if vae is None else torch.randint(256, (16, 3, 256, 256), dtype=torch.uint8)
    batches = setup.sources(model, accelerator, [(images, torch.arange(len(images)))] * 2, row.batch_size)
    pair = setup.optimizers(network, mask, "adamw", 1e-7, shared=row.mode == "shared", state=row.state)
    return accelerator, model, setup.sfron(model, accelerator, batches, mask, pair, log_cosine=row.log_cosine)


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
    peak = peak_bytes(before)
    return asdict(row) | {"name": row.name, "seconds": seconds, "peak_bytes": peak, "parameters": parameters}


def draw_rate(arguments: tuple[str, str]) -> dict[str, Any]:
    """Images a second of guided DDIM sampling, latents alone."""
    size, precision = arguments
    _, model, _ = build(size, Row(precision=precision))
    work = setup.drawer(model, DRAWN, STEPS, 1.5)
    synchronise()
    work()
    start = perf_counter()
    work()
    synchronise()
    return {"precision": precision, "images_per_second": DRAWN / (perf_counter() - start), "steps": STEPS}


def flop_of_forward(size: str) -> int:
    """FLOP of a forward pass of one image."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = setup.dit_network(size)
        inputs = torch.empty(1, 4, 32, 32), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops()


def tabulate(content: dict[str, Any]) -> str:
    rows, rates, flop = content["rows"], content["matmul_flop_per_second"], content["flop_of_forward"]
    first, body = rows[0], []
    for row in rows:
        if row["seconds"] is None:
            body.append([row["name"], "out of memory", "", "", "", ""])
            continue
        work = 2 * 3 * flop * row["batch_size"]  # two phases, each forward and backward
        body.append(
            [
                row["name"], f"{row['seconds']:.3f}", f"{row['seconds'] / first['seconds']:.2f}",
                f"{row['peak_bytes'] / 1e9:.2f} GB", f"{row['peak_bytes'] / first['peak_bytes']:.2f}",
                f"{work / row['seconds'] / rates[row['precision']]:.0%}",
            ]
        )  # fmt: skip
    head = [
        "step", "seconds", "of the first's time", "peak", "of the first's peak", "share of the matmul rate",
    ]  # fmt: skip
    lines = [
        f"# A forgetting step of DiT-{content['size']} ({first['parameters'] / 1e6:.1f} M parameters)", "",
        f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}. SFRon, mask on {DENSITY:.0%} of the weights, one forget and "
        f"one retain step; median of up to {REPEATS}. Ratios are to the first row.", "", *table(head, body), "",
        "Matmul rate: " + ", ".join(f"{k} {v / 1e12:.2f} TFLOP/s" for k, v in rates.items())
        + f". A forward pass of an image takes {flop / 1e9:.1f} GFLOP.", "",
        f"Drawing {DRAWN} latents in {STEPS} guided DDIM steps: "
        + ", ".join(f"{d['precision']} {d['images_per_second']:.2f} images/s" for d in content["drawing"]) + ".",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    sizes = [size for size in setup.DIT_SIZES if size != "toy"]
    options.add_argument("--size", choices=sizes, default="XL/2", help="[default: %(default)s]")
    arguments = parse(options, words)
    small, size, ways = arguments.toy, arguments.size, ROWS
    if small:
        size, ways = "toy", [row for row in ROWS if row.latents == "kept" and row.batch_size == 1]
    rows = []
    for row in tqdm(one_by_one(measure, [(size, row) for row in ways], here=small), total=len(ways), unit="row"):
        rows.append(row)
        tqdm.write(f"{row['name']}: {row['seconds']} s, {row['peak_bytes']} bytes")
    content = {
        "command": "python scripts/benchmarks/dit_step.py" + ("" if size == "XL/2" else f" --size {size}"),
        "size": size,
        **where(),
        "flop_of_forward": flop_of_forward(size),
        "matmul_flop_per_second": matmul_rates(small),
        "rows": rows,
        "drawing": list(one_by_one(draw_rate, [(size, "fp32"), (size, "bf16")], here=small)),
    }
    write_results(arguments.out, f"dit_step_{size.replace('/', '_')}", content, tabulate)


if __name__ == "__main__":
    main()
