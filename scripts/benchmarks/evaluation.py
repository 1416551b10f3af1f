"""How long does a Frechet distance take when it is streamed from memory, beside the way through PNG files and
torch-fidelity's folders? Takes two sets of uint8 images of 32 pixels (256 each; 5,000 on a GPU): smooth random
patterns and the same with noise. Both ways use the same Inception network and must give the same number. Without a
file of weights the network has random ones in the true format. Writes evaluation_DEVICE.json and .md.

    python scripts/benchmarks/evaluation.py
    python scripts/benchmarks/evaluation.py --inception-weights FILE
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from benchmarks.measuring import Benchmark, Found, parse, parser
from machine import kind, synchronise, where
from tables import table

AT_ONCE = 64


def random_weights(path: Path) -> Path:
    """Random Inception weights in torch-fidelity's file format, scaled so that features differ between images."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    module = "torch_fidelity.feature_extractor_inceptionv3"  # the constructor would download weights
    with (
        patch(f"{module}.load_state_dict_from_url", lambda *_, **__: {}),
        patch.object(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None),
    ):
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    torch.save(network.state_dict(), path)
    return path


def two_sets(count: int) -> list[Tensor]:
    """uint8 [count, 3, 32, 32] each."""
    source = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 4, 4, generator=source)
    smooth = 128 + 60 * functional.interpolate(coarse, size=32, mode="bicubic")
    noisy = smooth + 40 * torch.randn(smooth.shape, generator=source)
    return [images.clamp(0, 255).round().to(torch.uint8) for images in (smooth, noisy)]


def streamed(sets: list[Tensor], extractor: Any) -> float:
    """As `dualoptim evaluate` does it: batches into features, features into sums."""
    from dualoptim_diffusion.evaluation.frechet import FeatureStatistics, frechet_distance

    statistics = [FeatureStatistics() for _ in sets]
    for images, sums in zip(sets, statistics, strict=True):
        for batch in images.split(AT_ONCE):
            sums.add(extractor.extract(batch)[0])
    return frechet_distance(*statistics)


def through_files(sets: list[Tensor], weights: Path, folder: Path) -> float:
    """As research code does it: a PNG file an image, then torch-fidelity on two folders."""
    from torch_fidelity import calculate_metrics

    for number, images in enumerate(sets):
        part = folder / str(number)
        part.mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(part / f"{i:05d}.png")
    found = calculate_metrics(
        input1=str(folder / "0"), input2=str(folder / "1"), fid=True, cuda=torch.cuda.is_available(), cache=False,
        batch_size=AT_ONCE, verbose=False, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    return float(found["frechet_inception_distance"])


@dataclass(frozen=True)
class Comparison:
    """Both ways in one row: one alone gives no ratio."""

    name: str = "both ways"
    part: ClassVar[str] = "ways"
    alone: ClassVar[bool] = True


def compare(count: int, given: Path | None, row: Comparison) -> Found:
    """Seconds, number and image files of both ways, on sets of so many images."""
    from dualoptim_diffusion.evaluation.features import inception_features

    torch.backends.cudnn.allow_tf32 = False  # as the package does: both in float32
    sets, found = two_sets(count), {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        weights = given or random_weights(folder / "weights.pth")
        extractor = inception_features(weights, "cuda" if kind() == "gpu" else "cpu", AT_ONCE)
        if count > AT_ONCE:  # warm
            streamed([images[:AT_ONCE] for images in sets], extractor)
            through_files([images[:AT_ONCE] for images in sets], weights, folder / "warm")
        for way, work in (
            ("files", lambda: through_files(sets, weights, folder / "all")),
            ("streamed", lambda: streamed(sets, extractor)),
        ):
            synchronise()
            start = perf_counter()
            distance = work()
            seconds = perf_counter() - start
            found[way] = {"seconds": seconds, "distance": distance, "files": 2 * count if way == "files" else 0}
    return found | {"seconds": sum(part["seconds"] for part in found.values())}


def tabulate(content: Found) -> str:
    title = ["# Frechet distance, streamed and through files", "", f"`{content['command']}`", ""]
    ways = content["ways"]
    if ways["seconds"] is None:
        return "\n".join([*title, f"Both ways: {ways['problem']}."]) + "\n"
    ours, files = ways["streamed"], ways["files"]
    relative = abs(ours["distance"] - files["distance"]) / files["distance"]
    body = [
        [
            name, f"{found['seconds']:.1f}", f"{files['seconds'] / found['seconds']:.2f}", found["files"],
            f"{found['distance']:.6f}",
        ]
        for name, found in (("PNG files, torch-fidelity", files), ("streamed", ours))
    ]  # fmt: skip
    lines = [
        *title,
        f"{content['device']}, torch {content['torch']}; 2 x {content['images']} images of 32 pixels, "
        f"{content['weights']} Inception weights. The numbers differ by {relative:.1e} of their size.", "",
        *table(["way", "seconds", "times the rate through files", "image files written", "distance"], body),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--inception-weights", type=Path, help="torch-fidelity's file; random weights without it")
    arguments = parse(options, words)
    count = 2 if arguments.toy else 5000 if kind() == "gpu" else 256
    content = {
        "command": "python scripts/benchmarks/evaluation.py",
        **where(),
        "images": count,
        "weights": "given" if arguments.inception_weights else "random",
    }
    benchmark = Benchmark(arguments, "evaluation", content, tabulate, here=True)
    benchmark.run([Comparison()], partial(compare, count, arguments.inception_weights))
    benchmark.end()


if __name__ == "__main__":
    main()
