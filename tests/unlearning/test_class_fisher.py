"""Fisher information of every class from one pass."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dualoptim_diffusion.unlearning import class_fisher
from dualoptim_diffusion.unlearning.class_fisher import ClassFishers, without
from tests.helpers.commands import Outcome
from tests.helpers.numerics import rounding

Run = Callable[..., Outcome]
CLASSES, BATCHES = (0, 1, 2, 5), 3
KEPT = rounding(1)  # a class is kept in float32; sums over classes are float64


class Source:
    """Gradients of each class as a function of class and batch; counts how often a class is passed over."""

    def __init__(self) -> None:
        self.passes: Counter[int] = Counter()

    def __call__(self, label: int) -> Iterator[dict[str, Tensor]]:
        self.passes[label] += 1
        for i in range(BATCHES):
            yield self.gradient(label, i)

    @staticmethod
    def gradient(label: int, i: int) -> dict[str, Tensor]:
        source = torch.Generator().manual_seed(10 * label + i)
        g = torch.randn(6, generator=source) * 10.0 ** torch.arange(-9, 3, 2)
        g[label] = 0.0 if label != 2 else g[label]  # no other class reaches entry 2 as class 2 does
        if label != 2:
            g[2] = 0.0
        return {"w": g} | ({"seldom": torch.ones(2)} if label == 5 else {})


def expected(labels: tuple[int, ...]) -> Tensor:
    return sum(Source.gradient(c, i)["w"].double().square() for c in labels for i in range(BATCHES))


@pytest.mark.numerical
def test_the_retain_side_is_the_sum_over_all_other_classes(tmp_path: Path) -> None:
    forget, retain = ClassFishers(tmp_path, CLASSES, Source()).forget_and_retain([2])
    torch.testing.assert_close(forget["w"], expected((2,)), rtol=KEPT, atol=0)
    torch.testing.assert_close(retain["w"], expected((0, 1, 5)), rtol=KEPT, atol=0)
    assert retain["w"][2] == 0  # and not what rounding left
    assert forget["w"][2] > 0
    assert retain["seldom"].tolist() == [3.0, 3.0]
    assert "seldom" not in forget


@pytest.mark.numerical
def test_one_pass_serves_every_class_and_every_group(tmp_path: Path) -> None:
    source = Source()
    fishers = ClassFishers(tmp_path, CLASSES, source)
    for group in ([0], [1], [2], [5], [0, 5]):
        forget, retain = fishers.forget_and_retain(group)
        others = tuple(c for c in CLASSES if c not in group)
        torch.testing.assert_close(forget["w"], expected(tuple(group)), rtol=KEPT, atol=0)
        torch.testing.assert_close(retain["w"], expected(others), rtol=KEPT, atol=0)
    assert source.passes == dict.fromkeys(CLASSES, 1)


def test_of_many_classes_only_those_asked_for_are_kept_and_another_costs_its_own_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ClassFishers(tmp_path / "whole", CLASSES, Source()).forget_and_retain([1])
    monkeypatch.setattr(class_fisher, "CACHE_ALL", 3)
    source = Source()
    fishers = ClassFishers(tmp_path / "many", CLASSES, source)
    fishers.forget_and_retain([0])
    assert sorted(p.name for p in (tmp_path / "many").glob("*.safetensors")) == [
        "class_0000.safetensors",
        "total.safetensors",
    ]
    part = fishers.forget_and_retain([1])
    assert source.passes == {0: 1, 1: 2, 2: 1, 5: 1}
    assert all(torch.equal(a[name], b[name]) for a, b in zip(whole, part, strict=True) for name in a)


def test_every_process_looks_before_one_writes_and_again_when_all_have_written(tmp_path: Path) -> None:
    """Two processes as threads: whoever is slow finds what the other finds, so both pass over the same classes."""
    barrier, sources = Barrier(2, timeout=60), (Source(), Source())

    def process(i: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        accelerator: Any = SimpleNamespace(is_main_process=i == 0, wait_for_everyone=barrier.wait)
        fishers = ClassFishers(tmp_path, CLASSES, sources[i], accelerator)
        return fishers.forget_and_retain([5])  # the last class: the one that is read just after it was written

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(process, range(2))
    assert sources[0].passes == sources[1].passes == dict.fromkeys(CLASSES, 1)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(one, two, strict=True) for name in a)


def test_what_a_subtraction_leaves_by_rounding_is_zero_and_nothing_is_negative() -> None:
    total = {"w": torch.tensor([1.0, 1.0, 1.0, 2.0], dtype=torch.float64)}
    part = {"w": torch.tensor([1.0 - 1e-13, 1.0 + 1e-13, 1.0 - 1e-6, 0.5], dtype=torch.float64)}
    assert without(total, part)["w"].tolist() == pytest.approx([0.0, 0.0, 1e-6, 1.5], rel=1e-6, abs=0)


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    source = Source()
    fishers = ClassFishers(tmp_path, CLASSES, source)
    before = fishers.forget_and_retain([1])
    (tmp_path / "class_0001.safetensors").write_bytes(b"no tensors")
    after = fishers.forget_and_retain([1])
    assert source.passes[1] == 2
    assert torch.equal(before[0]["w"], after[0]["w"])


def test_the_mask_of_a_second_class_needs_no_further_pass(
    dualoptim: Run, tiny: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dualoptim_diffusion.core.terminal.EVERY", 1e-9)
    word = "method.mask.estimator=class_pure"
    first = dualoptim("saliency", tiny, "--class", "three", word, "--out", tmp_path / "three.safetensors")
    assert first.code == 0, first.err
    assert "saliency, three" in first.err
    assert "saliency, eight" in first.err
    second = dualoptim("saliency", tiny, "--class", "eight", word, "--out", tmp_path / "eight.safetensors")
    assert second.code == 0, second.err
    assert "saliency, " not in second.err
    masks = [load_file(tmp_path / f"{name}.safetensors") for name in ("three", "eight")]
    shares = [sum(int(m.sum()) for m in mask.values()) / sum(m.numel() for m in mask.values()) for mask in masks]
    assert all(0 < share < 0.5 for share in shares)
    assert any(not torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
