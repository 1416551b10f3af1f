"""What does a forgetting step of a DiT cost? Measures seconds, peak memory, the share of the device's matmul rate, and
the rate of drawing. SFRon runs with one shared AdamW and with two, a mask on a tenth of the weights, full, compact and
8-bit state, batches of 1 and 8, fp32 and bf16 passes, with and without gradient checkpointing and micro-batches, from
kept latents and from images that are encoded at each step. Every row's peak is its own: on a CPU each is a process of
its own. Ratios are to the first row of the same run. The default is DiT-XL/2 with random weights, for a GPU of 40 GB
or more. Writes dit_step_SIZE_DEVICE.json and .md after each row.

    python scripts/benchmarks/dit_step.py
    python scripts/benchmarks/dit_step.py --size S/2      # 33 M parameters; minutes on a CPU
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from benchmarks import setup
from benchmarks.measuring import Benchmark, Found, bytes_of_libraries, parse, parser, peak_bytes, ratio, there
from machine import REPEATS, flop_of_forward, kind, matmul_rates, timed, where
from tables import table

DENSITY = 0.1
MICRO_BATCH = 2
STEPS, TIMED_STEPS = 50, 10  # DDIM steps of an image, and those that are timed: all cost the same


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
    micro_batches: bool = False

    @property
    def name(self) -> str:
        parts = [self.mode, *([self.state] if self.mode == "dual" else []), f"batch {self.batch_size}", self.precision]
        parts += ["checkpointing"] if self.checkpointing else []
        parts += [f"micro-batches of {MICRO_BATCH}"] if self.micro_batches else []
        parts += ["cosine logged"] if self.log_cosine else []
        return ", ".join([*parts, f"{self.latents} latents" if self.latents == "kept" else "encoding each step"])

    @property
    def needs(self) -> str | None:
        return "bitsandbytes" if self.state == "8bit" else None


@dataclass(frozen=True)
class Drawing:
    """One way to draw latents with guidance."""

    precision: str = "fp32"
    compiled: bool = False
    part: ClassVar[str] = "drawing"

    @property
    def name(self) -> str:
        return f"drawing, {self.precision}" + ", compiled block" * self.compiled

    @property
    def takes(self) -> float:
        return 20 if self.compiled else 0


ROWS: tuple[Row | Drawing, ...] = (  # most telling first
    Row(),
    Row("dual"),
    Row("dual", "compact"),
    Row("dual", "8bit"),
    Row("shared", "full", 8, "bf16"),
    Row("dual", "full", 8, "bf16"),
    Row("dual", "compact", 8, "bf16"),
    Row("dual", "compact", 8, "bf16", checkpointing=True),
    Row("dual", "compact", 8, "bf16", micro_batches=True),
    Drawing("bf16"),
    Row("dual", "compact", precision="bf16"),
    Row("shared", batch_size=8),
    Row("dual", "full", 8),
    Row("dual", "compact", 8),
    Drawing("bf16", compiled=True),
    Row("dual", "compact", 8, checkpointing=True),
    Row("dual", "compact", log_cosine=True),
    Row("dual", "compact", 8, "bf16", latents="encoded"),
    Row("dual", "compact", latents="encoded"),
    Drawing(),
)


def build(size: str, row: Row) -> tuple[Any, Callable[[int], None]]:
    """The model, and a function that takes so many steps."""
    accelerator = setup.make_accelerator()
    torch.manual_seed(0)
    with accelerator.device:
        setup.randomise(network := setup.dit_network(size))
        vae = None if row.latents == "kept" else setup.autoencoder((128, 256, 512, 512))
        mask = setup.supports(setup.random_mask(network, DENSITY))
    model = setup.dit_model(network, vae)
    if row.checkpointing:
        model.checkpoint_gradients()
    if row.micro_batches:
        model.limit_batches(MICRO_BATCH)
    model.prepare(accelerator, row.precision)
    network.train()
    images = torch.randn(64, 4, 32, 32) if vae is None else torch.randint(256, (16, 3, 256, 256), dtype=torch.uint8)
    batches = setup.sources(model, accelerator, [(images, torch.arange(len(images)))] * 2, row.batch_size)
    fused = kind() == "gpu"
    pair = setup.optimizers(network, mask, "adamw", 1e-7, row.mode == "shared", row.state, fused)
    return model, setup.sfron(model, accelerator, batches, mask, pair, log_cosine=row.log_cosine)


def measure(size: str, row: Row | Drawing) -> Found:
    """Seconds a step and peak bytes of one row, without what the libraries take; or the rate of drawing."""
    if isinstance(row, Drawing):
        return draw_rate(size, row)
    before = bytes_of_libraries()
    model, step = build(size, row)
    seconds = timed(lambda: step(1))
    parameters = sum(p.numel() for p in model.network.parameters())
    return {"seconds": seconds, "peak_bytes": peak_bytes(before), "parameters": parameters}


def drawn_at_once(size: str) -> int:
    """A batch that fills the device."""
    return 1 if size == "toy" else 32 if kind() == "gpu" else 8


def draw_rate(size: str, row: Drawing) -> Found:
    """Seconds of a guided DDIM step of one batch of latents, and images a second."""
    before, at_once = bytes_of_libraries(), drawn_at_once(size)
    accelerator = setup.make_accelerator()
    torch.manual_seed(0)
    with accelerator.device:
        setup.randomise(network := setup.dit_network(size))
    model = setup.dit_model(network)
    model.prepare(accelerator, row.precision, compiled=row.compiled)
    seconds = timed(setup.drawer(model, at_once, TIMED_STEPS, 1.5), warm_up=1, repeats=3) / TIMED_STEPS
    rate = at_once / seconds / STEPS
    return {
        "seconds": seconds, "at_once": at_once, "steps": STEPS, "images_per_second": rate,
        "peak_bytes": peak_bytes(before),
    }  # fmt: skip


def flop_of_image(size: str) -> int:
    """FLOP of a forward pass of one image."""
    with torch.device("meta"):
        network = setup.dit_network(size)
        inputs = torch.empty(1, 4, 32, 32), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    return flop_of_forward(network, *inputs)


def step_cells(row: Found, content: Found) -> list[str]:
    first = content["rows"][0]
    if row["seconds"] is None:
        return [row["name"], row["problem"], "", "", "", ""]
    work = 2 * 3 * content["flop_of_forward"] * row["batch_size"]  # two phases, each forward and backward
    return [
        row["name"], f"{row['seconds']:.3f}", ratio(row, first), f"{row['peak_bytes'] / 1e9:.2f} GB",
        ratio(row, first, "peak_bytes"),
        f"{work / row['seconds'] / content['matmul_flop_per_second'][row['precision']]:.0%}",
    ]  # fmt: skip


def drawing_cells(row: Found, content: Found) -> list[str]:
    if row["seconds"] is None:
        return [row["name"], row["problem"], "", ""]
    work = 2 * content["flop_of_forward"] * row["at_once"]  # with a label and without
    share = work / row["seconds"] / content["matmul_flop_per_second"][row["precision"]]
    return [row["name"], f"{row['images_per_second']:.2f}", f"{row['peak_bytes'] / 1e9:.2f} GB", f"{share:.0%}"]


def tabulate(content: Found) -> str:
    rows, drawing, rates = content["rows"], content.get("drawing", []), content["matmul_flop_per_second"]
    parameters = next((f" ({row['parameters'] / 1e6:.1f} M parameters)" for row in there(rows)), "")
    head = [
        "step", "seconds", "of the first's time", "peak", "of the first's peak", "share of the matmul rate",
    ]  # fmt: skip
    lines = [
        f"# A forgetting step of DiT-{content['size']}{parameters}", "",
        f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}. SFRon, mask on {DENSITY:.0%} of the weights, one forget and "
        f"one retain step; median of up to {REPEATS}. On a GPU every AdamW is fused. Ratios are to the first row.", "",
        *table(head, [step_cells(row, content) for row in rows]), "",
        "Matmul rate: " + ", ".join(f"{k} {v / 1e12:.2f} TFLOP/s" for k, v in rates.items())
        + f". A forward pass of an image takes {content['flop_of_forward'] / 1e9:.1f} GFLOP.",
    ]  # fmt: skip
    if drawing:
        lines += [
            "", f"Images a second, {content['drawn_at_once']} latents at once, in {STEPS} guided DDIM steps, by the "
            f"time of {TIMED_STEPS}:", "",
            *table(
                ["drawing", "images a second", "peak", "share of the matmul rate"],
                [drawing_cells(row, content) for row in drawing],
            ),
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def in_toy(row: Row | Drawing) -> bool:
    """All but what takes long on a CPU at any size."""
    return not row.compiled if isinstance(row, Drawing) else row.latents == "kept" and row.precision == "fp32"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    sizes = [size for size in setup.DIT_SIZES if size != "toy"]
    options.add_argument("--size", choices=sizes, default="XL/2", help="[default: %(default)s]")
    arguments = parse(options, words)
    size, ways = arguments.size, ROWS
    if arguments.toy:
        size, ways = "toy", tuple(row for row in ROWS if in_toy(row))
    content = {
        "command": "python scripts/benchmarks/dit_step.py" + ("" if size == "XL/2" else f" --size {size}"),
        "size": size,
        **where(),
        "flop_of_forward": flop_of_image(size),
        "drawn_at_once": drawn_at_once(size),
        "matmul_flop_per_second": matmul_rates(arguments.toy),
    }
    benchmark = Benchmark(arguments, f"dit_step_{size.replace('/', '_')}", content, tabulate)
    benchmark.run(ways, partial(measure, size))
    benchmark.end()


if __name__ == "__main__":
    main()
