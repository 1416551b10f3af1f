"""Guided sampling beside two separate calls of the network, and beside diffusers' own pipeline.

    python scripts/benchmarks/drawing.py

The CIFAR-10 U-Net, DDIM with guidance 3, 8 images at once (128 on a GPU): the conditional and the null prediction by
two calls, by one call on twice the batch, and that in bf16, in channels_last and compiled. Then a DiT (S/2; XL/2 on a
GPU) in latents, guidance 1.5, with a small autoencoder: diffusers' DiTPipeline beside ours on the same weights and
seeds. Last, a batch of the U-Net in 50 steps and Inception's features of another batch, one after the other and at the
same time. Results: drawing_DEVICE.json and .md.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from dit_step import SIZES
from evaluation import random_weights
from measuring import FLOP_OF_UNET, matmul_rate, place, profile, row, timed, told, where, write_results
from torch import Tensor

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


def drawer(
    model: Any,
    batch_size: int,
    guidance_scale: float,
    predict: Callable[..., Tensor] | None = None,
    steps: int = STEPS,
) -> Callable[[], Tensor]:
    """A function that draws one batch of x_0."""
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


def unet_model(way: Way) -> Any:
    """The CIFAR-10 U-Net, ready to predict in this way."""
    from dualoptim_diffusion.models import ConditionalDDPM, ConditionalUNet
    from dualoptim_diffusion.runs.obtain import make_accelerator

    accelerator = make_accelerator("auto")
    torch.manual_seed(0)
    network = ConditionalUNet(sample_size=32, in_channels=3, num_classes=10)
    model = ConditionalDDPM(network.to(accelerator.device), {i: str(i) for i in range(10)})
    model.prepare(accelerator, way.precision, way.channels_last, way.compiled)
    return model


def unet_rows(batch_size: int) -> list[dict[str, Any]]:
    """Seconds and profile of a denoising step, one row a way."""
    rows: list[dict[str, Any]] = []
    first: Tensor | None = None
    for way in WAYS:
        model = unet_model(way)

        def two_calls(x_t: Tensor, t: Tensor, labels: Tensor, scale: float, model: Any = model) -> Tensor:
            null = model.predict(x_t, t, torch.full_like(labels, model.null_class))
            return null + scale * (model.predict(x_t, t, labels) - null)

        work = drawer(model, batch_size, 3.0, two_calls if way.two_calls else None)
        x_0 = work()
        first = x_0 if first is None else first
        seconds = timed(work, warm_up=1, repeats=3) / STEPS
        difference = float((x_0 - first).norm() / first.norm())
        rows.append({"name": way.name, "precision": way.precision, "seconds": seconds, "difference": difference})
        rows[-1]["profile"] = profile(work)
    return rows


def dit_rows(size: str, batch_size: int) -> list[dict[str, Any]]:
    """Images a second of diffusers' pipeline and of ours, decoding included."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline

    from dualoptim_diffusion.diffusion.sampling import make_scheduler
    from dualoptim_diffusion.models import ConditionalDiT, DiT
    from dualoptim_diffusion.runs.obtain import make_accelerator

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers, heads, width = SIZES[size]
    torch.manual_seed(0)
    network = DiT(num_layers=layers, num_attention_heads=heads, attention_head_dim=width)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    channels = (16, 16, 16, 16)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels, layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=256,
    )  # fmt: skip
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
    for precision, compiled in (("fp32", False), ("bf16", False), ("bf16", True)):
        accelerator = make_accelerator("auto")
        ours = deepcopy(network).to(device)  # compiled blocks stay compiled
        model = ConditionalDiT(ours, {i: str(i) for i in range(1000)}, vae=vae)
        model.prepare(accelerator, precision, compiled=compiled)
        work = drawer(model, batch_size, 1.5)
        apart = float(((model.decode(work()).cpu().int() - first).abs() > 1).float().mean())
        seconds = timed(lambda work=work, model=model: model.decode(work()), 0, 3)
        name = f"ours, {precision}" + (", compiled block" if compiled else "")
        rows.append({"name": name, "precision": precision, "pixels": apart, "seconds": seconds})
    return rows


def extraction(batch_size: int) -> dict[str, float]:
    """Seconds to draw one batch and to take features of another: features alone, both in turn, both at once."""
    from dualoptim_diffusion.evaluation.features import inception_features

    model = unet_model(Way(precision="bf16"))
    device = next(model.network.parameters()).device
    draw_batch = drawer(model, batch_size, 3.0, steps=STEPS_OF_RUN)
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
        return {name: timed(work, warm_up=1, repeats=3) for name, work in ways.items()}


def tabulate(content: dict[str, Any]) -> str:
    two_calls = next(r for r in content["unet"] if r["name"] == "two calls, fp32")
    stock, batch_size = content["dit"][0], content["batch_size"]
    lines = [
        "# Guided sampling", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}. CIFAR-10 U-Net, {batch_size} images at once, {STEPS} DDIM "
        "steps. The last column is the relative norm of the difference to the images of the first row.", "",
        row(["prediction", "seconds a step", "times two calls' rate", "of the matmul rate", "difference"]),
        row(["---"] * 5),
    ]  # fmt: skip
    for found in content["unet"]:
        ratio = two_calls["seconds"] / found["seconds"]
        share = 2 * FLOP_OF_UNET * batch_size / found["seconds"] / content["matmul_flop_per_second"][found["precision"]]
        lines.append(
            row([
                found["name"], f"{found['seconds']:.3f}", f"{ratio:.2f}", f"{share:.0%}", f"{found['difference']:.0e}",
            ])
        )  # fmt: skip
    for found in content["unet"]:
        if found["name"] in ("two calls, fp32", "one call, fp32", "one call, bf16"):
            lines += ["", f"Profile, {found['name']}: {told(found['profile'])}."]
    lines += [
        "", f"DiT-{content['size']}, {content['dit_batch_size']} latents at once, {STEPS} DDIM steps, decoded by "
        "a small autoencoder. The last column is the share of pixels that differ by more than one grey level from the "
        "first row's.", "",
        row(["pipeline", "images a second", "times diffusers' rate", "pixels"]), row(["---"] * 4),
    ]  # fmt: skip
    for found in content["dit"]:
        rate = content["dit_batch_size"] / found["seconds"]
        ratio = stock["seconds"] / found["seconds"]
        lines.append(row([found["name"], f"{rate:.2f}", f"{ratio:.2f}", f"{found['pixels']:.1%}"]))
    parts = content["extraction"]
    lines += [
        "", f"A batch of {batch_size} images of the U-Net in bf16 and {STEPS_OF_RUN} steps, and Inception's features "
        f"of another batch: {parts['in_turn']:.2f} s one after the other, of which the features take "
        f"{parts['features'] / parts['in_turn']:.1%}; {parts['at_once']:.2f} s at the same time, "
        f"{parts['in_turn'] / parts['at_once']:.2f} times the rate.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    on_gpu = place() == "gpu"
    size, batch_size, dit_batch_size = ("XL/2", 128, 32) if on_gpu else ("S/2", 8, 4)
    content = {
        "command": "python scripts/benchmarks/drawing.py",
        **where(),
        "size": size,
        "batch_size": batch_size,
        "dit_batch_size": dit_batch_size,
        "matmul_flop_per_second": {"fp32": matmul_rate(torch.float32), "bf16": matmul_rate(torch.bfloat16)},
        "unet": unet_rows(batch_size),
        "dit": dit_rows(size, dit_batch_size),
        "extraction": extraction(batch_size),
    }
    write_results(arguments.out, "drawing", content, tabulate)


if __name__ == "__main__":
    main()
