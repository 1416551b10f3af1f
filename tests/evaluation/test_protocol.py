"""Protocols: what is drawn, what it is compared with, and which figures may stand in one table."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from dualoptim_diffusion.core.config import EvaluationConfig, SamplingConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import ImageSet, load_image_folder
from dualoptim_diffusion.evaluation.features import Extractor
from dualoptim_diffusion.evaluation.protocol import (
    PROTOCOLS,
    find_protocol,
    plan_seeds,
    protocol_of,
    protocol_sha256,
)
from dualoptim_diffusion.judge.classifier import Classifier, ClassifierInfo
from dualoptim_diffusion.runs.evaluate import check_judge
from dualoptim_diffusion.runs.obtain import obtain_extractor

TEN = {i: f"class {i}" for i in range(10)}


def plan(
    name: str, n_training: int, forget: tuple[int, ...] = (3,), seeds: str = "0-499", labels: int = 10
) -> dict[int, list[int]]:
    settings = SamplingConfig(seeds=seeds)
    return plan_seeds(PROTOCOLS[name], settings, list(range(labels)), labels, forget, n_training)


def counts(planned: dict[int, list[int]]) -> dict[int, int]:
    return {label: len(seeds) for label, seeds in planned.items()}


def test_standard_draws_as_many_as_cifar10_retains() -> None:
    drawn = plan("standard", 45_000)
    assert counts(drawn) == dict.fromkeys(range(10), 5000) | {3: 500, 10: 500}
    assert drawn[0] == list(range(5000))  # counting on from the recipe's seeds


def test_standard_stops_at_fifty_thousand_and_draws_the_recipes_seeds_at_least() -> None:
    assert counts(plan("standard", 1_279_867))[0] == 50_000 // 9
    assert counts(plan("standard", 1292))[0] == 500
    assert counts(plan("standard", 1_279_867, labels=1000))[0] == 50_000 // 999


def test_seeds_that_run_out_go_on_from_the_largest() -> None:
    drawn = plan("quick", 1000, seeds="7,0-2")
    assert drawn[3][:5] == [7, 0, 1, 2, 8]
    assert len(set(drawn[3])) == 100
    assert len(drawn[0]) == 20


def test_distances_are_to_held_out_images_where_there_are_enough() -> None:
    def images(count: int) -> ImageSet:
        return ImageSet(torch.zeros(count, 1, 2, 2, dtype=torch.uint8), torch.zeros(count, dtype=torch.long), TEN)

    training, many, few = images(500), images(100), images(99)
    for name in ("standard", "seeds", "quick"):
        assert PROTOCOLS[name].reference_of(training, many) is many
        assert PROTOCOLS[name].reference_of(training, few) is training


def test_published_protocols_fix_sampler_reference_and_edits() -> None:
    cifar = PROTOCOLS["published-cifar10"]
    settings = cifar.settings(SamplingConfig(scheduler="ddim", num_inference_steps=10, guidance_scale=1.0))
    assert (settings.scheduler, settings.num_inference_steps, settings.guidance_scale) == ("ddpm", 1000, 3.0)
    labels = torch.arange(10).repeat(600)
    images = torch.arange(6000).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    retained = ImageSet(images, labels, TEN).of_classes([c for c in range(10) if c != 3])
    nothing = retained.at(torch.empty(0, dtype=torch.long))
    reference = cifar.reference_of(retained, nothing)
    assert len(reference) == 4500
    for c in range(10):
        own = reference.images[reference.class_labels == c][:, 0, 0, 0].tolist()
        assert own == ([] if c == 3 else list(range(c, 5000, 10)))
    every = ImageSet(images.repeat(2, 1, 1, 1), labels.repeat(2), TEN)
    random = PROTOCOLS["published-imagenet"].reference_of(every, nothing)
    assert len(random) == 10_000
    assert cifar.fixed_by_us


def test_published_figures_are_fid_or_refused() -> None:
    judge = Classifier.create(ClassifierInfo("test_resnet", 32, 1, TEN))
    config = EvaluationConfig(classifier="x", features="classifier")
    with pytest.raises(InputError, match="published-cifar10 measures FID"):
        obtain_extractor(config, PROTOCOLS["published-cifar10"], judge, None, Accelerator(cpu=True))
    with pytest.raises(InputError, match="did you mean standard"):
        find_protocol("standart")


def test_the_hash_follows_everything_a_figure_depends_on() -> None:
    judge = Classifier.create(ClassifierInfo("test_resnet", 32, 1, TEN))
    other_judge = Classifier.create(ClassifierInfo("test_resnet", 32, 1, TEN))
    data = ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), TEN)
    other_data = ImageSet(torch.ones(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), TEN)
    extractor = Extractor("FD[a]", "1", "r", judge)
    base: dict[str, Any] = {"protocol": PROTOCOLS["standard"], "settings": SamplingConfig(), "classifier": judge}
    base |= {"extractor": extractor, "data": (data, data), "reference": "held-out"}
    changes: list[dict[str, Any]] = [
        {},
        {"protocol": PROTOCOLS["seeds"]},
        {"settings": SamplingConfig(num_inference_steps=7)},
        {"settings": SamplingConfig(seeds="0-9")},
        {"classifier": other_judge},
        {"extractor": Extractor("FD[a]", "2", "r", judge)},
        {"extractor": Extractor("FD[a]", "1", "r", judge, edit="stretched, BGR")},
        {"data": (other_data, data)},
        {"data": (data, other_data)},
        {"reference": "training images"},
    ]
    hashes = [protocol_sha256(protocol_of(**(base | change))) for change in changes]
    assert len(set(hashes)) == len(changes)
    assert hashes[0] == protocol_sha256(protocol_of(**base) | {"statement": "in other words"})


def judge_with(accuracy: dict[str, float]) -> Classifier:
    info = ClassifierInfo("test_resnet", 32, 1, TEN, accuracy, dict.fromkeys(accuracy, 36))
    return Classifier.create(info)


def test_a_judge_below_the_floor_is_refused_and_an_unmeasured_one_is_unverified() -> None:
    with pytest.raises(InputError, match=r"only 59\.0% of 36 real images of 'class 3'.*min_accuracy 60%"):
        check_judge(judge_with({"class 3": 0.59}), ["class 3"], 0.6)
    assert check_judge(judge_with({"class 3": 0.6, "class 4": 0.1}), ["class 3"], 0.6)
    assert not check_judge(judge_with({"class 4": 1.0}), ["class 3"], 0.6)


def test_real_images_are_read_from_a_folder_of_classes(tmp_path: Path) -> None:
    for name, value in (("class 1", 10), ("class 3", 200)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 12), (value, value, value)).save(tmp_path / name / "a.png")
    images = load_image_folder(tmp_path, TEN, (1, 8, 8))
    assert images.images.shape == (2, 1, 8, 8)
    assert images.class_labels.tolist() == [1, 3]
    assert images.images[1].unique().tolist() == [200]
    (tmp_path / "class 1" / "b.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"b\.png cannot be read"):
        load_image_folder(tmp_path, TEN, (1, 8, 8))
    (tmp_path / "clas 4").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "clas 4" / "a.png")
    with pytest.raises(InputError, match="did you mean class"):
        load_image_folder(tmp_path, TEN, (1, 8, 8))
    with pytest.raises(InputError, match="no folder"):
        load_image_folder(tmp_path / "none", TEN, (1, 8, 8))
