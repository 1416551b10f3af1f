"""How fast is guided sampling beside two separate calls of the network, and beside diffusers' own pipeline? Draws with
the CIFAR-10 U-Net, DDIM and guidance 3, 8 images at once (128 on a GPU): the conditional and the null prediction by
two calls, by one call on twice the batch, and that in bf16, in channels_last and compiled. Then a DiT (S/2; XL/2 on
a GPU) draws in latents with guidance 1.5 and a small autoencoder: diffusers' DiTPipeline beside ours on the same
weights and seeds. Last, a batch of the U-Net in 50 steps and Inception's features of another batch are computed one
after the other and at the same time. Writes drawing_DEVICE.json and .md after each row, with profiles at the end.

    python scripts/benchmarks/drawing.py
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from benchmarks import setup
from benchmarks.evaluation import random_weights
from benchmarks.measuring import (
    FLOP_OF_UNET,
    Benchmark,
    Found,
    Profiled,
    named,
    parse,
    parser,
    profile,
    ratio,
    there,
    told,
)
from machine import kind, matmul_rates, timed, where
from tables import table

STEPS = 10
STEPS_OF_RUN = 50  # the recipes' default
TWO_CALLS, STOCK = "two calls, fp32", "diffusers' DiTPipeline, fp32"  # what the others are beside


@dataclass(frozen=True)
class Way:
    """How the U-Net predicts."""

    two_calls: bool = False
    precision: str = "fp32"
    channels_last: bool = False
    compiled: bool = False
    part: ClassVar[str] = "unet"

    @property
    def name(self) -> str:
        words = ["two calls" if self.two_calls else "one call", self.precision]
        return ", ".join(words + ["channels_last"] * self.channels_last + ["compiled"] * self.compiled)

    @property
    def takes(self) -> float:
        return 40 if self.compiled else 0


@dataclass(frozen=True)
class DiTWay:
    """How the DiT draws: diffusers' pipeline or ours."""

    stock: bool = False
    precision: str = "fp32"
    compiled: bool = False
    part: ClassVar[str] = "dit"

    @property
    def name(self) -> str:
        if self.stock:
            return f"diffusers' DiTPipeline, {self.precision}"
        return f"ours, {self.precision}" + ", compiled block" * self.compiled

    @property
    def takes(self) -> float:
        return 20 if self.compiled else 0


@dataclass(frozen=True)
class Extraction:
    """Drawing beside the extraction of features."""

    name: str = "extraction"
    part: ClassVar[str] = "extraction"
    alone: ClassVar[bool] = True


Row = Way | DiTWay | Extraction | Profiled
ROWS: tuple[Row, ...] = (  # most telling first
    Way(two_calls=True),
    Way(precision="bf16", channels_last=True),
    Way(precision="bf16"),
    Way(),
    DiTWay(stock=True),
    DiTWay(precision="bf16"),
    DiTWay(),
    Extraction(),
    Way(two_calls=True, precision="bf16"),
    Way(channels_last=True),
    DiTWay(precision="bf16", compiled=True),
    Way(precision="bf16", channels_last=True, compiled=True),
    *(Profiled(way) for way in (Way(two_calls=True), Way(), Way(precision="bf16"))),
)
TOY_ROWS: tuple[Row, ...] = (
    Way(two_calls=True), Way(), Way(precision="bf16"), DiTWay(stock=True), DiTWay(), Extraction(), Profiled(Way()),
)  # fmt: skip


def unet_model(way: Way, **parts: Any) -> Any:
    """The CIFAR-10 U-Net, ready to predict in this way."""
    accelerator = setup.make_accelerator()
    torch.manual_seed(0)
    model = setup.unet_model(accelerator.device, **parts)
    model.prepare(accelerator, way.precision, way.channels_last, way.compiled)
    return model


def unet_drawer(way: Way, batch_size: int, steps: int, **parts: Any) -> Any:
    """A function that draws a batch in this way."""
    model = unet_model(way, **parts)

    def two_calls(x_t: Tensor, t: Tensor, labels: Tensor, scale: float) -> Tensor:
        null = model.predict(x_t, t, torch.full_like(labels, model.null_class))
        return null + scale * (model.predict(x_t, t, labels) - null)

    return setup.drawer(model, batch_size, steps, 3.0, two_calls if way.two_calls else None)


class Measured:
    """What rows are compared with: the first images of the U-Net and of the DiT, and the DiT itself."""

    def __init__(self, size: str, batch_size: int, dit_batch_size: int, toy: bool, parts: dict[str, Any]) -> None:
        self.size, self.batch_size, self.dit_batch_size, self.toy, self.parts = (
            size, batch_size, dit_batch_size, toy, parts,
        )  # fmt: skip
        self.first: Tensor | None = None
        self.pixels: Tensor | None = None
        self.dit: tuple[Any, Any] | None = None  # network and autoencoder

    def __call__(self, row: Row) -> Found:
        if isinstance(row, Way):
            return self.unet(row)
        if isinstance(row, DiTWay):
            return self.of_dit(row)
        if isinstance(row, Profiled):
            work = unet_drawer(row.way, self.batch_size, 1, **self.parts)
            work()
            return {"seconds": 0.0, "profile": profile(work)}
        self.dit = None
        return extraction(1, 1, **self.parts) if self.toy else extraction(self.batch_size)

    def unet(self, way: Way) -> Found:
        """Seconds of a denoising step."""
        work = unet_drawer(way, self.batch_size, STEPS, **self.parts)
        x_0 = work().float().cpu()
        self.first = x_0 if self.first is None and way.two_calls else self.first
        seconds = timed(work, warm_up=1, repeats=3) / STEPS
        difference = None if self.first is None else float((x_0 - self.first).norm() / self.first.norm())
        return {"seconds": seconds, "difference": difference}

    def of_dit(self, way: DiTWay) -> Found:
        """Seconds of a batch of images, decoding included."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.dit is None:
            self.dit = dit_and_autoencoder(self.size, device)
        work = (stock_drawer if way.stock else our_drawer)(way, *self.dit, self.dit_batch_size, device)
        images = work()
        self.pixels = images if way.stock else self.pixels
        apart = None if self.pixels is None else float(((images - self.pixels).abs() > 1).float().mean())
        return {"pixels": apart, "seconds": timed(work, 0, 3)}


def dit_and_autoencoder(size: str, device: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    with torch.device(device):
        setup.randomise(network := setup.dit_network(size))
        vae = setup.autoencoder((16, 16, 16, 16), layers=1, groups=8)
        with torch.no_grad():  # so that its images have contrast
            spread = vae.decode(torch.randn(1, 4, 32, 32)).sample.std()
            vae.decoder.conv_out.weight.mul_(0.5 / spread)
    return network, vae


def stock_drawer(way: DiTWay, network: Any, vae: Any, batch_size: int, device: str) -> Any:
    """diffusers' pipeline; a function that draws a batch of int images on the CPU."""
    from diffusers import DDIMScheduler, DiTPipeline

    from dualoptim_diffusion.diffusion.sampling import make_scheduler

    with torch.device(device):
        from dualoptim_diffusion.models.dit_network import DiT

        stock = DiT.of(network).to_stock()
    pipeline = DiTPipeline(stock, vae, DDIMScheduler.from_config(make_scheduler("ddim").config)).to(device)
    pipeline.set_progress_bar_config(disable=True)

    def work() -> Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(batch_size)]
        drawn = pipeline(
            [i % 1000 for i in range(batch_size)], guidance_scale=1.5, num_inference_steps=STEPS, output_type="np",
            generator=generators,
        ).images  # fmt: skip
        return (torch.from_numpy(drawn) * 255).round().permute(0, 3, 1, 2).int()

    return work


def our_drawer(way: DiTWay, network: Any, vae: Any, batch_size: int, device: str) -> Any:
    """Ours; the same."""
    model = setup.dit_model(deepcopy(network), vae)  # compiled blocks stay compiled
    model.prepare(setup.make_accelerator(), way.precision, compiled=way.compiled)
    draw = setup.drawer(model, batch_size, STEPS, 1.5)
    return lambda: model.decode(draw()).cpu().int()


def extraction(batch_size: int, repeats: int = 3, **parts: Any) -> Found:
    """Seconds to draw one batch and to take features of another: features alone, both in turn, both at once."""
    from dualoptim_diffusion.evaluation.features import inception_features

    model = unet_model(Way(precision="bf16"), **parts)
    device = next(model.network.parameters()).device
    draw_batch = setup.drawer(model, batch_size, STEPS_OF_RUN, 3.0)
    images = torch.randint(256, (batch_size, 3, 32, 32), dtype=torch.uint8)
    with TemporaryDirectory() as folder:
        extractor = inception_features(random_weights(Path(folder) / "weights.pth"), device, batch_size)

    stream = torch.cuda.Stream() if device.type == "cuda" else None  # beside the drawing's own

    def extract() -> None:
        with torch.cuda.stream(stream):
            extractor.extract(images)

    def in_turn() -> None:
        draw_batch()
        extract()

    def at_once() -> None:
        features = workers.submit(extract)
        draw_batch()
        features.result()

    with ThreadPoolExecutor(1) as workers:
        ways = {"features": extract, "in_turn": in_turn, "at_once": at_once}
        found = {name: timed(work, warm_up=int(repeats > 1), repeats=repeats) for name, work in ways.items()}
        return {"seconds": sum(found.values()), **found}


def unet_cells(row: Found, content: Found) -> list[str]:
    if row["seconds"] is None:
        return [row["name"], row["problem"], "", "", ""]
    work, rates = 2 * FLOP_OF_UNET * content["batch_size"], content["matmul_flop_per_second"]
    return [
        row["name"], f"{row['seconds']:.3f}", ratio(named(content["unet"], TWO_CALLS), row),
        f"{work / row['seconds'] / rates[row['precision']]:.0%}",
        "" if row["difference"] is None else f"{row['difference']:.0e}",
    ]  # fmt: skip


def dit_cells(row: Found, content: Found) -> list[str]:
    if row["seconds"] is None:
        return [row["name"], row["problem"], "", ""]
    return [
        row["name"], f"{content['dit_batch_size'] / row['seconds']:.2f}", ratio(named(content["dit"], STOCK), row),
        "" if row["pixels"] is None else f"{row['pixels']:.1%}",
    ]  # fmt: skip


def tabulate(content: Found) -> str:
    batch_size, parts = content["batch_size"], content["extraction"]
    head = ["prediction", "seconds a step", "times two calls' rate", "of the matmul rate", "difference"]
    lines = [
        "# Guided sampling", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}. CIFAR-10 U-Net, {batch_size} images at once, {STEPS} DDIM "
        "steps. The last column is the relative norm of the difference to the images of the first row.", "",
        *table(head, [unet_cells(row, content) for row in content["unet"]]),
    ]  # fmt: skip
    for found in there(content.get("profiles", [])):
        lines += ["", f"Profile, {found['name']}: {told(found['profile'])}."]
    lines += [
        "", f"DiT-{content['size']}, {content['dit_batch_size']} latents at once, {STEPS} DDIM steps, decoded by "
        "a small autoencoder. The last column is the share of pixels that differ by more than one grey level from the "
        "first row's.", "",
        *table(
            ["pipeline", "images a second", "times diffusers' rate", "pixels"],
            [dit_cells(row, content) for row in content["dit"]],
        ), "",
        f"A batch of {batch_size} images of the U-Net in bf16 and {STEPS_OF_RUN} steps, and Inception's features "
        f"of another batch: "
        + (
            parts["problem"] if parts["seconds"] is None else
            f"{parts['in_turn']:.2f} s one after the other, of which the features take "
            f"{parts['features'] / parts['in_turn']:.1%}; {parts['at_once']:.2f} s at the same time, "
            f"{parts['in_turn'] / parts['at_once']:.2f} times the rate"
        ) + ".",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(parser(__file__, __doc__), words)
    size, batch_size, dit_batch_size = ("XL/2", 128, 32) if kind() == "gpu" else ("S/2", 8, 4)
    rows, parts = ROWS, {}
    if arguments.toy:
        size, batch_size, dit_batch_size = "toy", 2, 1
        rows, parts = TOY_ROWS, setup.TOY_UNET
    content = {
        "command": "python scripts/benchmarks/drawing.py",
        **where(),
        "size": size,
        "batch_size": batch_size,
        "dit_batch_size": dit_batch_size,
        "matmul_flop_per_second": matmul_rates(arguments.toy),
    }
    benchmark = Benchmark(arguments, "drawing", content, tabulate, here=True)
    benchmark.run(rows, Measured(size, batch_size, dit_batch_size, arguments.toy, parts))
    benchmark.end()


if __name__ == "__main__":
    main()
