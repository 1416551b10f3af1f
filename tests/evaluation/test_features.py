"""FID and its relatives: streamed, equal to torch-fidelity's, never under a wrong name or from a wrong cache."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch_fidelity import utils

from dualoptim_diffusion.core.config import DataConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import ImageSet, load_dataset
from dualoptim_diffusion.evaluation import evaluate, frechet_distance, neighbours
from dualoptim_diffusion.evaluation.features import inception_features, with_full_contrast_bgr
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics
from dualoptim_diffusion.evaluation.kid import kernel_distance
from dualoptim_diffusion.evaluation.reference import Reference, cached_reference, measure_reference
from dualoptim_diffusion.evaluation.relatives import inception_score, precision_and_recall
from tests.helpers.judged import PIXELS, pixels
from tests.helpers.numerics import rounding

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from benchmarks.evaluation import random_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_weights(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.fixture
def inception_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-fidelity's Inception computes in float64, for it and for us; its features are float32 as ever."""
    create = utils.create_feature_extractor

    def wide(*arguments: Any, **options: Any) -> Any:
        network = create(*arguments, **options).double()
        network.feature_extractor_internal_dtype = torch.float64  # its option of that name stays at float32
        return network

    monkeypatch.setattr(utils, "create_feature_extractor", wide)


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Real digits, and the same with noise: uint8 [count, 1, 8, 8] each."""
    images = load_dataset(DataConfig(name="digits"))[0].images[:count]
    noise = 40 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return images, (images.float() + noise).clamp(0, 255).round().to(torch.uint8)


def compare_with_torch_fidelity(weights: Path, folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch_fidelity
    from torch_fidelity.metric_fid import fid_featuresdict_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric
    from torch_fidelity.utils import create_feature_extractor, extract_featuresdict_from_input_id

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("our path streams: it never hands folders to calculate_metrics")

    monkeypatch.setattr(torch_fidelity, "calculate_metrics", forbidden)
    monkeypatch.setattr("torch_fidelity.metrics.calculate_metrics", forbidden)
    sides, theirs = digits(count), []
    options: dict[str, Any] = {"cuda": False, "verbose": False, "cache": False, "batch_size": 32}
    network = create_feature_extractor(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights), **options
    )
    for number, images in enumerate(sides, start=1):
        path = folder / str(number)
        path.mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image[0].numpy()).convert("RGB").save(path / f"{i:04d}.png")
        theirs.append(extract_featuresdict_from_input_id(number, network, **{f"input{number}": str(path)}, **options))

    extractor = inception_features(weights)
    ours = [extractor.extract(images) for images in sides]
    for (features, logits), their in zip(ours, theirs, strict=True):
        for mine, other in ((features, their["2048"]), (logits, their["logits_unbiased"])):
            torch.testing.assert_close(mine, other, rtol=rounding(1), atol=1e-12)  # kept in float32
    theirs = [{name: part.double() for name, part in their.items()} for their in theirs]
    statistics = []
    for (features, _), their in zip(ours, theirs, strict=True):
        statistics.append(FeatureStatistics())
        for batch in features.split(50):
            statistics[-1].add(batch)
        mu, sigma = statistics[-1].mean_and_covariance()
        expected = fid_featuresdict_to_statistics(their, "2048")
        for mine, other in ((mu, expected["mu"]), (sigma, expected["sigma"])):
            other = torch.as_tensor(other)
            assert (mine - other).norm() / other.norm() < 1e-5
    expected = [fid_featuresdict_to_statistics(their, "2048") for their in theirs]
    fid = fid_statistics_to_metric(*expected, verbose=False)["frechet_inception_distance"]
    trace = sum(float(side["sigma"].trace()) for side in expected)
    assert frechet_distance(*statistics) == pytest.approx(fid, rel=1e-3, abs=1e-6 * trace)
    features = [their["2048"] for their in theirs]
    kid = kid_features_to_metric(*features, kid_subset_size=min(1000, count), verbose=False)
    assert kernel_distance(ours[0][0], ours[1][0]).value == pytest.approx(
        kid["kernel_inception_distance_mean"], rel=1e-4
    )
    prc = prc_features_to_metric(*features, verbose=False)
    assert precision_and_recall(ours[0][0].double(), Reference.of(ours[1][0].double())) == (
        prc["precision"],
        prc["recall"],
    )


def test_streamed_figures_equal_torch_fidelity_on_folders_of_png(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inception_in_float64: None
) -> None:
    compare_with_torch_fidelity(weights, tmp_path, 4, monkeypatch)


@pytest.mark.slow
def test_streamed_figures_equal_torch_fidelity_on_256_images_a_side(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inception_in_float64: None
) -> None:
    compare_with_torch_fidelity(weights, tmp_path, 256, monkeypatch)


@pytest.mark.numerical
def test_only_the_standard_weights_make_it_fid_and_batches_do_not_matter(
    weights: Path, inception_in_float64: None
) -> None:
    one, many = inception_features(weights, batch_size=1), inception_features(weights, batch_size=64)
    assert one.name.startswith("FD[inception-v3 ")
    images = digits(2)[0]
    for a, b in zip(one.extract(images), many.extract(images), strict=True):
        torch.testing.assert_close(a, b, rtol=rounding(1), atol=1e-12)  # kept in float32


def test_wrong_inception_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weight file"):
        inception_features(tmp_path / "none.pth")
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="does not hold the weights of FID's Inception"):
        inception_features(tmp_path / "other.pth")


def test_without_a_network_the_sentence_names_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*arguments: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"--inception-weights.*evaluation\.features=classifier"):
        inception_features(None)


def as_set(images: Tensor) -> ImageSet:
    return ImageSet(images, torch.zeros(len(images), dtype=torch.int64), {0: "a"})


def test_a_reference_is_kept_for_the_same_images_extractor_and_resize_alone() -> None:
    calls = []

    def counting(images: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(images))
        return pixels(images)

    extractor = replace(PIXELS, extract=counting)
    images = digits(30)[0]
    first = cached_reference(as_set(images), extractor)
    again = cached_reference(as_set(images.clone()), extractor)
    assert calls == [30]
    assert torch.equal(first.features, again.features)
    for a, b in zip(first.statistics.mean_and_covariance(), again.statistics.mean_and_covariance(), strict=True):
        assert torch.equal(a, b)
    changed = images.clone()
    changed[0, 0, 0, 0] += 1
    for other, by in (
        (changed, extractor),
        (images[:29], extractor),
        (images.view(30, 1, 4, 16), extractor),
        (images, replace(extractor, sha256="other")),
        (images, replace(extractor, resize="other")),
        (images, replace(extractor, edit="other")),
    ):
        before = len(calls)
        cached_reference(as_set(other), by)
        assert len(calls) == before + 1


def test_published_edits_stretch_each_image_and_swap_channels() -> None:
    image = torch.tensor([50, 100, 150], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 2, 2).contiguous()
    image[0, 0, 0, 0] = 75
    edited = with_full_contrast_bgr(PIXELS)
    seen = edited.extract(image)[0].view(3, 2, 2)
    assert seen[0].unique().tolist() == [255.0]  # the brightest channel, now first
    assert seen[2].flatten().tolist() == [64.0, 0.0, 0.0, 0.0]
    assert edited.name == "FD[pixels] (stretched, BGR)"


def test_inception_score_of_one_sure_class_each_is_the_number_of_classes() -> None:
    logits = 100 * torch.eye(4).repeat(500, 1)
    assert inception_score(logits, "x")["value"] == pytest.approx(4, rel=0.02)
    assert inception_score(torch.zeros(200, 4), "x")["value"] == pytest.approx(1)


def test_precision_falls_with_images_outside_and_recall_with_modes_left_out() -> None:
    torch.manual_seed(0)
    real = Reference.of(torch.cat([torch.randn(100, 4), torch.randn(100, 4) + 20]))
    assert precision_and_recall(torch.randn(100, 4), real)[1] == pytest.approx(0.5, abs=0.1)  # one mode of two
    assert precision_and_recall(torch.randn(100, 4) + 50, real)[0] == 0  # nowhere near


@pytest.mark.parametrize(("n", "m"), [(40, 40), (5, 61), (64, 33), (4, 4)])
def test_blocks_give_the_precision_and_recall_of_torch_fidelity(
    n: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    monkeypatch.setattr(neighbours, "BLOCK", 16)
    source = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randint(-3, 4, (count, 3), generator=source).double() for count in (n, m))  # with many ties
    expected = prc_features_to_metric(ours, theirs, verbose=False)
    found = precision_and_recall(ours, Reference.of(theirs))
    assert found == pytest.approx((expected["precision"], expected["recall"]))


def test_neighbours_of_kept_real_images_are_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, _ = load_dataset(DataConfig(name="digits"))
    first = cached_reference(real, PIXELS)
    monkeypatch.setattr(neighbours, "_nearest", None)
    kept = cached_reference(real, PIXELS)
    assert torch.equal(kept.radii, first.radii)
    assert kept.radii.min() > 0


def test_another_extractor_gives_every_figure_its_name() -> None:
    from tests.helpers.judged import NAMES, Oracle, drawn

    samples = {i: drawn(*[i] * 4) for i in range(4)}
    result = evaluate(samples, Oracle(), NAMES, (3,), measure_reference(drawn(0, 1, 2, 0, 1), PIXELS), extractor=PIXELS)
    names = [result[key]["name"] for key in ("frechet", "kid", "inception_score", "precision", "recall")]
    assert names == ["FD[pixels]", "KID[pixels]", "IS[pixels]", "precision[pixels]", "recall[pixels]"]
