"""How fast is guided sampling beside two separate calls of the network, and beside diffusers' own pipeline? Draws with
the CIFAR-10 U-Net, DDIM and guidance 3, 8 images at once (128 on a GPU): the conditional and the null prediction by
two calls, by one call on twice the batch, and that in bf16, in channels_last and compiled. Then a DiT (S/2; XL/2 on
a GPU) draws in latents with guidance 1.5 and a small autoencoder: diffusers' DiTPipeline beside ours on the same
weights and seeds. Last, a batch of the U-Net in 50 steps and Inception's features of another batch are computed one
after the other and at the same time. Writes drawing_DEVICE.json and .md.

    python scripts/benchmarks/drawing.py
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from benchmarks import setup
from benchmarks.evaluation import random_weights
from benchmarks.measuring import FLOP_OF_UNET, profile, told, write_results
from command import parse, parser
from machine import kind, matmul_rates, timed, where
from tables import table

STEPS = 10
STEPS_OF_RUN = 50  # the recipes' default


@dataclass(frozen=True)
class Way:
    """How the U-Net predicts."""

    two_calls: bool = False
    precision: str = "fp32"
    channels_last: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        words = ["two calls" if self.two_calls else "one call", self.precision]
        return ", ".join(words + ["channels_last"] * self.channels_last + ["compiled"] * self.compiled)


WAYS = (
    Way(two_calls=True),
    Way(),
    Way(channels_last=True),
    Way(two_calls=True, precision="bf16"),
    Way(precision="bf16"),
    Way(precision="bf16", channels_last=True),
    Way(precision="bf16", channels_last=True, compiled=True),
)
TOY_WAYS = (Way(two_calls=True), Way(), Way(precision="bf16"))
DIT_WAYS = (("fp32", False), ("bf16", False), ("bf16", True))  # precision, compiled


def unet_model(way: Way, **parts: Any) -> Any:
    """The CIFAR-10 U-Net, ready to predict in this way."""
    accelerator = setup.make_accelerator()
    torch.manual_seed(0)
    model = setup.unet_model(accelerator.device, **parts)
    model.prepare(accelerator, way.precision, way.channels_last, way.compiled)
    return model


def unet_rows(batch_size: int, ways: Sequence[Way] = WAYS, **parts: Any) -> list[dict[str, Any]]:
    """Seconds and profile of a denoising step, one row a way."""
    rows: list[dict[str, Any]] = []
    first: Tensor | None = None
    for way in ways:
        model = unet_model(way, **parts)

        def two_calls(x_t: Tensor, t: Tensor, labels: Tensor, scale: float, model: Any = model) -> Tensor:
            null = model.predict(x_t, t, torch.full_like(labels, model.null_class))
            return null + scale * (model.predict(x_t, t, labels) - null)

        work = setup.drawer(model, batch_size, STEPS, 3.0, two_calls if way.two_calls else None)
        x_0 = work()
        first = x_0 if first is None else first
        seconds = timed(work, warm_up=1, repeats=3) / STEPS
        difference = float((x_0 - first).norm() / first.norm())
        rows.append({"name": way.name, "precision": way.precision, "seconds": seconds, "difference": difference})
        rows[-1]["profile"] = profile(work)
    return rows


def dit_rows(size: str, batch_size: int, ways: Sequence[tuple[str, bool]] = DIT_WAYS) -> list[dict[str, Any]]:
    """Images a second of diffusers' pipeline and of ours, decoding included."""
    from diffusers import DDIMScheduler, DiTPipeline

    from dualoptim_diffusion.diffusion.sampling import make_scheduler

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    setup.randomise(network := setup.dit_network(size))
    vae = setup.autoencoder((16, 16, 16, 16), layers=1, groups=8)
    with torch.no_grad():  # so that its images have contrast
        spread = vae.decode(torch.randn(1, 4, 32, 32)).sample.std()
        vae.decoder.conv_out.weight.mul_(0.5 / spread)
    stock = DiTPipeline(network.to_stock(), vae, DDIMScheduler.from_config(make_scheduler("ddim").config)).to(device)
    stock.set_progress_bar_config(disable=True)
    labels = [i % 1000 for i in range(batch_size)]

    def theirs() -> Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(batch_size)]
        drawn = stock(
            labels, guidance_scale=1.5, num_inference_steps=STEPS, output_type="np", generator=generators
        ).images
        return (torch.from_numpy(drawn) * 255).round().permute(0, 3, 1, 2).int()

    first = theirs()
    rows = [
        {"name": "diffusers' DiTPipeline, fp32", "precision": "fp32", "pixels": 0.0, "seconds": timed(theirs, 0, 3)}
    ]
    for precision, compiled in ways:
        ours = deepcopy(network).to(device)  # compiled blocks stay compiled
        model = setup.dit_model(ours, vae)
        model.prepare(setup.make_accelerator(), precision, compiled=compiled)
        work = setup.drawer(model, batch_size, STEPS, 1.5)
        apart = float(((model.decode(work()).cpu().int() - first).abs() > 1).float().mean())
        seconds = timed(lambda work=work, model=model: model.decode(work()), 0, 3)
        name = f"ours, {precision}" + (", compiled block" if compiled else "")
        rows.append({"name": name, "precision": precision, "pixels": apart, "seconds": seconds})
    return rows


def extraction(batch_size: int, repeats: int = 3, **parts: Any) -> dict[str, float]:
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
        return {name: timed(work, warm_up=repeats > 1, repeats=repeats) for name, work in ways.items()}


def unet_table(content: dict[str, Any]) -> list[str]:
    two_calls = next(r for r in content["unet"] if r["name"] == "two calls, fp32")
    work, rates = 2 * FLOP_OF_UNET * content["batch_size"], content["matmul_flop_per_second"]
    body = [
        [
            found["name"], f"{found['seconds']:.3f}", f"{two_calls['seconds'] / found['seconds']:.2f}",
            f"{work / found['seconds'] / rates[found['precision']]:.0%}", f"{found['difference']:.0e}",
        ]
        for found in content["unet"]
    ]  # fmt: skip
    return table(["prediction", "seconds a step", "times two calls' rate", "of the matmul rate", "difference"], body)


def dit_table(content: dict[str, Any]) -> list[str]:
    stock, batch_size = content["dit"][0], content["dit_batch_size"]
    body = [
        [
            found["name"], f"{batch_size / found['seconds']:.2f}", f"{stock['seconds'] / found['seconds']:.2f}",
            f"{found['pixels']:.1%}",
        ]
        for found in content["dit"]
    ]  # fmt: skip
    return table(["pipeline", "images a second", "times diffusers' rate", "pixels"], body)


def tabulate(content: dict[str, Any]) -> str:
    batch_size, parts = content["batch_size"], content["extraction"]
    lines = [
        "# Guided sampling", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}. CIFAR-10 U-Net, {batch_size} images at once, {STEPS} DDIM "
        "steps. The last column is the relative norm of the difference to the images of the first row.", "",
        *unet_table(content),
    ]  # fmt: skip
    for found in content["unet"]:
        if found["name"] in ("two calls, fp32", "one call, fp32", "one call, bf16"):
            lines += ["", f"Profile, {found['name']}: {told(found['profile'])}."]
    lines += [
        "", f"DiT-{content['size']}, {content['dit_batch_size']} latents at once, {STEPS} DDIM steps, decoded by "
        "a small autoencoder. The last column is the share of pixels that differ by more than one grey level from the "
        "first row's.", "", *dit_table(content), "",
        f"A batch of {batch_size} images of the U-Net in bf16 and {STEPS_OF_RUN} steps, and Inception's features "
        f"of another batch: {parts['in_turn']:.2f} s one after the other, of which the features take "
        f"{parts['features'] / parts['in_turn']:.1%}; {parts['at_once']:.2f} s at the same time, "
        f"{parts['in_turn'] / parts['at_once']:.2f} times the rate.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(parser(__file__, __doc__), words)
    size, batch_size, dit_batch_size = ("XL/2", 128, 32) if kind() == "gpu" else ("S/2", 8, 4)
    ways, dit_ways, parts = WAYS, DIT_WAYS, {}
    if arguments.toy:
        size, batch_size, dit_batch_size = "toy", 2, 1
        ways, dit_ways, parts = TOY_WAYS, DIT_WAYS[:1], setup.TOY_UNET
    content = {
        "command": "python scripts/benchmarks/drawing.py",
        **where(),
        "size": size,
        "batch_size": batch_size,
        "dit_batch_size": dit_batch_size,
        "matmul_flop_per_second": matmul_rates(arguments.toy),
        "unet": unet_rows(batch_size, ways, **parts),
        "dit": dit_rows(size, dit_batch_size, dit_ways),
        "extraction": extraction(1, 1, **parts) if arguments.toy else extraction(batch_size),
    }
    write_results(arguments.out, "drawing", content, tabulate)


if __name__ == "__main__":
    main()
