"""The study of the claim: what is run, which rates are chosen, and what its statistics are."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from studies import claim, claim_tables
from studies.claim import ONE, TWO, Plan, chosen_rates
from studies.claim_tables import FINETUNING, KID, Compared, deviation_ratio, paired

BASES = ["one.yaml", "two.yaml", "three.yaml"]
PLAN = Plan(BASES, 5)
CHOSEN = dict.fromkeys(claim.ARMS, "1e-4") | {TWO: "3e-4"}


def run(group: str, fa: float = 0.0, kid: float = 0.0, seed: int = 0, base: str = "b", name: str = "one") -> dict:
    return {
        "group": group, "class_name": name, "seed": seed, "base_sha256": base,
        "overrides": ["method.retain_lr=1e-4"], "after": {"FA": fa, "RA": 0.9, "KID": kid},
    }  # fmt: skip


def test_arms_are_tested_on_other_base_models_and_classes_than_their_rates_are_chosen_on() -> None:
    choosing = [cell for part in PLAN.choosing().values() for cell in part]
    tested = PLAN.tested(CHOSEN)
    assert len(tested) == 3 * 5 * 5 * 2 * (len(claim.ARMS) + 1)  # all, and finetuning, at both rates
    assert len({cell.key for cell in tested}) == len(tested)
    assert {cell.class_name for cell in tested}.isdisjoint({cell.class_name for cell in choosing})
    assert all(any("model.pretrain" in word for word in cell.overrides) for cell in tested)
    assert not any("model.pretrain" in word for cell in choosing for word in cell.overrides)


def test_a_study_that_was_stopped_has_every_arm_equally_often_but_one() -> None:
    half = PLAN.tested(CHOSEN)[:200]
    counts = [sum(cell.group == arm for cell in half) for arm in claim.ARMS]
    assert max(counts) - min(counts) <= 1


def test_a_changed_factor_is_all_that_differs() -> None:
    rows = PLAN.factors(CHOSEN)
    for (change, arm), cells in rows.items():
        added = {*claim.FACTORS.get(change, ()), *claim.MOMENTS.get(change, ())}
        for cell, plain in zip(cells, rows["", arm], strict=True):
            extra = set(cell.overrides) - set(plain.overrides)
            assert extra <= added
            assert (extra == added) or FINETUNING in arm  # which has no forget phase


def test_the_lowest_rate_that_forgets_is_chosen_and_a_stopped_run_has_not_forgotten() -> None:
    stopped = run("a") | {"after": None}
    found = {
        ("a", "3e-5"): [run("a", 0.5)], ("a", "1e-4"): [run("a", 0.02), run("a", 0.08)], ("a", "3e-4"): [run("a", 0.0)],
        ("b", "1e-4"): [run("b", 0.9)], ("b", "3e-4"): [run("b", 0.3)], ("b", "1e-3"): [run("b", 0.0), stopped],
    }  # fmt: skip
    assert chosen_rates(found, ("a", "b", "c")) == {"a": "1e-4", "b": "3e-4"}


def test_a_distance_is_beside_finetuning_with_the_same_base_model_class_and_seed() -> None:
    beside = [run(FINETUNING, kid=0.001 * seed, seed=seed) for seed in (1, 2)]
    compared = Compared(beside)
    assert compared.values(run("a", kid=0.005, seed=2))[KID] == pytest.approx(3)
    assert compared.values(run("a", seed=3)) is None


def test_differences_are_means_over_seeds_of_each_base_model_and_class() -> None:
    places = [(base, name, seed) for base in "bc" for name in ("one", "two") for seed in (0, 1)]
    beside = [run(FINETUNING, base=b, name=n, seed=s) for b, n, s in places]
    one = [run(ONE, 0.1, base=b, name=n, seed=s) for b, n, s in places]
    two = [run(TWO, 0.1 + 0.01 * (s + (n == "two")), base=b, name=n, seed=s) for b, n, s in places]
    assert paired(Compared(beside), two, one, "FA") == pytest.approx([0.005, 0.015, 0.005, 0.015])


def test_the_ratio_of_deviations_is_that_of_what_was_drawn() -> None:
    drawn = np.random.default_rng(1).standard_normal((15, 5))
    one = {("b", str(i)): float(row.var(ddof=1)) for i, row in enumerate(drawn)}
    two = {key: value / 4 for key, value in one.items()}
    assert deviation_ratio(two, one) == pytest.approx((0.5, 0.5, 0.5))
    other = np.random.default_rng(2).standard_normal((15, 5))
    _, low, high = deviation_ratio({("b", str(i)): float(row.var(ddof=1)) for i, row in enumerate(other)}, one)
    assert low < 1 < high


def test_what_can_be_detected_is_that_of_the_normal_distribution_for_many_runs() -> None:
    quantiles = 1.959964 + 0.841621  # 5% two-sided, 80%
    assert claim_tables.detectable(2.0, 10_000) == pytest.approx(2 * quantiles / 100, rel=1e-3)
    free = 100_000
    assert math.log(claim_tables.detectable_ratio(free + 10, 10)) == pytest.approx(quantiles / free**0.5, rel=1e-2)


@pytest.mark.slow
def test_it_runs_to_its_end_at_toy_scale_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim.main(["--scale", "toy", "--out", str(tmp_path)])
    first = (tmp_path / "claim.md").read_text()
    assert "What the second optimizer changes" in first
    monkeypatch.setattr("studies.runner.run_cell", None)
    claim.main(["--scale", "toy", "--out", str(tmp_path)])
    assert (tmp_path / "claim.md").read_text() == first
    assert (tmp_path / "claim.png").stat().st_size > 1000
