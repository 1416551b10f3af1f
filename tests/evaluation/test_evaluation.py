"""Rates, intervals and distances against published values and closed forms."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.evaluation import (
    Measured,
    compare,
    evaluate,
    frechet_distance,
    measure,
    wilson_interval,
)
from dualoptim_diffusion.evaluation.accuracy import degenerate, nearest_classes
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics
from dualoptim_diffusion.evaluation.reference import measure_reference
from tests.helpers.judged import NAMES, PIXELS, Oracle, drawn


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 500, 0.0, 0.0076),  # 0 of 500: at most 0.76%
        (0, 5000, 0.0, 0.0008),
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), Table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_intervals_are_the_published_ones(hits: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=6e-5)


def statistics(features: torch.Tensor, size: int = 1000) -> FeatureStatistics:
    result = FeatureStatistics()
    for part in features.split(size):
        result.add(part)
    return result


def exact_features(mean: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Rows whose sample mean is `mean` and whose unbiased covariance is diag(scales^2), exactly."""
    d = len(mean)
    spread = (d - 0.5) ** 0.5  # 2d rows, two off-centre in each direction: variance 2 spread^2 / (2d - 1) = 1
    return mean + torch.cat([torch.eye(d), -torch.eye(d)]).double() * spread * scales


@pytest.mark.numerical
def test_the_distance_of_two_gaussians_is_the_closed_form() -> None:
    m1, s1 = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    m2, s2 = torch.tensor([0.0, 1.0, 0.5]).double(), torch.tensor([3.0, 1.0, 0.25]).double()
    distance = frechet_distance(statistics(exact_features(m1, s1)), statistics(exact_features(m2, s2)))
    assert distance == pytest.approx(((m1 - m2).square() + (s1 - s2).square()).sum().item(), rel=1e-6)


@pytest.mark.numerical
def test_statistics_do_not_depend_on_batch_size_and_equal_torch_fidelity() -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics

    features = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)).double() + 5
    theirs = fid_features_to_statistics(features)
    for size in (1, 7, 300):
        mu, sigma = statistics(features, size).mean_and_covariance()
        assert torch.allclose(mu, torch.as_tensor(theirs["mu"]), rtol=1e-12)
        assert (sigma - torch.as_tensor(theirs["sigma"])).norm() / sigma.norm() < 1e-12


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(InputError, match="at least 2 images"):
        frechet_distance(statistics(torch.zeros(1, 2)), statistics(torch.zeros(5, 2)))


def score(samples: dict[int, torch.Tensor], forget: tuple[int, ...], **options: Any) -> dict[str, Any]:
    return evaluate(samples, options.get("classifier", Oracle()), NAMES, forget, drawn(0, 1, 2, 3, 0))


def test_a_hit_is_any_forgotten_class_and_ra_counts_the_own_class_alone() -> None:
    samples = {0: drawn(0, 0, 1), 1: drawn(1, 2, 0), 2: drawn(2, 1, 0), 3: drawn(3, 3, 1)}
    result = score(samples, (1, 2))
    assert result["FA"]["hits"] == 4  # label 1 drew 1 and 2, label 2 drew 2 and 1
    assert result["FA"]["n"] == 6
    assert result["FA"]["value"] == pytest.approx(4 / 6)
    assert result["FA"]["per_class"] == {"one": pytest.approx(2 / 3), "two": pytest.approx(2 / 3)}
    assert (result["RA"]["value"], result["RA"]["n"]) == (pytest.approx(4 / 6), 6)
    assert result["FA"]["ci95"] == list(wilson_interval(4 / 3, 2))  # both labels are hit by the same two seeds
    assert result["drawn"]["one"] == {"one": 1, "two": 1, "zero": 1}
    assert result["frechet"]["name"] == "FD[classifier]"
    assert (result["frechet"]["n_generated"], result["frechet"]["n_reference"]) == (6, 5)


def test_the_classifier_may_number_the_classes_otherwise() -> None:
    swapped = Oracle({0: "three", 1: "two", 2: "one", 3: "zero"})
    samples = {0: drawn(3, 3), 1: drawn(2, 2), 2: drawn(1, 1), 3: drawn(0, 0)}
    result = score(samples, (3,), classifier=swapped)
    assert result["FA"]["value"] == 1
    assert result["RA"]["value"] == 1


def test_a_class_outside_the_classifier_is_refused() -> None:
    with pytest.raises(InputError, match="does not know the class 'three'"):
        score({i: drawn(i, i) for i in range(4)}, (3,), classifier=Oracle({0: "zero", 1: "one", 2: "two"}))


def test_a_collapsed_model_is_reported_as_degenerate() -> None:
    flat = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    assert degenerate(torch.cat([flat, drawn(1)])).tolist() == [True] * 4 + [False]
    assert degenerate(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).all()
    colours = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    colours[:, 0] = 200  # one flat colour is degenerate too
    assert degenerate(colours).all()
    result = score({0: flat, 1: flat, 2: flat, 3: flat + 100}, (3,))
    assert result["FA"]["value"] == 0
    assert result["degenerate"]["forgotten"]["value"] == result["degenerate"]["others"]["value"] == 1
    assert result["variety"] == dict.fromkeys(NAMES.values(), 0.0)


def test_the_share_of_flat_images_is_that_of_the_forgotten_label_not_of_all() -> None:
    samples = {i: drawn(*[i] * 9) for i in range(3)} | {3: torch.cat([torch.zeros(3, 1, 2, 2).byte(), drawn(*[3] * 6)])}
    found = score(samples, (3,))["degenerate"]
    assert (found["forgotten"]["hits"], found["forgotten"]["n"]) == (3, 9)
    assert found["others"]["value"] == 0
    assert found["forgotten"]["per_class"] == {"three": pytest.approx(1 / 3)}


def test_the_nearest_classes_are_those_whose_real_images_are_taken_for_the_forgotten_one_most() -> None:
    """With their share of all; RA of them alone is beside RA of all."""

    class Doubtful(Oracle):
        def __call__(self, images: torch.Tensor, batch_size: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
            features, logits = super().__call__(images)
            logits[:, 3] += (images[:, 0, 0, 1] > 0) * 0.5  # a second bright pixel looks a little like class 3
            return features, logits

    images = torch.cat([drawn(i, i) for i in range(4)])
    images[[2, 4, 5], 0, 0, 1] = 200  # one of class 1, both of class 2
    labels = torch.arange(4).repeat_interleave(2)
    real = ImageSet(images, labels, dict(NAMES))
    assert nearest_classes(Doubtful(), real, [0, 1, 2], [3]) == (2,)
    assert nearest_classes(Doubtful(), real.of_classes([0, 1]), [0, 1, 2], [3]) == (1,)  # none of class 2 are there
    assert nearest_classes(Doubtful(), real, [0, 1], [3]) == ()  # a third of two is none

    samples = {0: drawn(0, 0), 1: drawn(1, 1), 2: drawn(2, 0), 3: drawn(0, 0)}
    reference = torch.cat([drawn(i, i, i) for i in range(3)])
    figures = measure(samples, Oracle(), NAMES, (3,), reference, nearest=(2,)).figures
    assert (figures["RA_nearest"]["hits"], figures["RA_nearest"]["n"]) == (1, 2)
    assert (figures["RA"]["hits"], figures["RA"]["n"]) == (5, 6)
    assert "RA_nearest" not in measure(samples, Oracle(), NAMES, (3,), reference).figures


def test_a_classifier_that_may_answer_none_is_read_both_ways() -> None:
    """Forced to name a class it can only name more: FA is the worse of the two, RA the better."""

    class Unsure(Oracle):
        def __call__(self, images: torch.Tensor, batch_size: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
            features, logits = super().__call__(images)
            logits[:, 4] = 0.5 + (images[:, 0, 0, 1] > 0) * 1.0  # says none where the second pixel is bright
            return features, logits

    samples = {i: drawn(i, i, i, i) for i in range(4)}
    samples[3][:3, 0, 0, 1] = 200
    samples[0][:1, 0, 0, 1] = 200
    result = score(samples, (3,), classifier=Unsure())
    assert (result["FA"]["hits"], result["FA_none"]["hits"]) == (4, 1)
    assert (result["RA"]["hits"], result["RA_none"]["hits"]) == (12, 11)
    assert result["drawn"]["three"] == {"three": 1, "none of these": 3}
    assert result["drawn_forced"]["three"] == {"three": 4}
    never = score({i: drawn(i, i) for i in range(4)}, (3,), classifier=TenWay())
    assert "FA_none" not in never
    assert "drawn_forced" not in never


class TenWay(Oracle):
    """Knows no such answer."""

    def __init__(self) -> None:
        super().__init__()
        self.info = replace(self.info, id2label=NAMES)

    def __call__(self, images: torch.Tensor, batch_size: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
        features, logits = super().__call__(images)
        return features, logits[:, :4]


def test_what_forgetting_changed_has_an_interval_and_a_ratio_only_where_one_is_known() -> None:
    source = torch.Generator().manual_seed(0)

    def random_images(label: int, count: int, brightest: int) -> torch.Tensor:
        images = torch.randint(0, brightest, (count, 1, 2, 2), generator=source).byte()
        images[:, 0, 0, 0] = label
        return images

    real = measure_reference(torch.cat([random_images(i, 60, 4) for i in range(3)]), PIXELS)

    def measured(brightest: int) -> Measured:
        samples = {i: random_images(i, 100, brightest) for i in range(4)}
        return measure(samples, Oracle(), NAMES, (3,), real, extractor=PIXELS)

    near, far = measured(4), measured(9)
    same = compare(far, far)
    assert same["kid"]["ratio"] == 1
    assert same["kid"]["difference"] == same["RA"]["difference"] == 0
    worse = compare(near, far)["kid"]
    assert 0 < worse["difference_ci95"][0] < worse["difference"] < worse["difference_ci95"][1]
    assert "ratio" not in worse  # the original's distance may be 0
    better = compare(far, near)["kid"]
    assert better["ratio_ci95"][0] < better["ratio"] < better["ratio_ci95"][1] < 1
