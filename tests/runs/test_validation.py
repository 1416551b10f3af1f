"""Quick evaluations along a run: they log figures, keep the best weights by the stated rule, and change nothing."""

import json
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dualoptim_diffusion import sample
from dualoptim_diffusion.drawing.panels import draw_cell
from dualoptim_diffusion.drawing.samples import LazySamples
from dualoptim_diffusion.runs.finished import open_run
from dualoptim_diffusion.runs.models import open_base_model
from dualoptim_diffusion.runs.validation import RULE, SEEDS_FROM, rank
from tests.helpers.commands import Outcome

Run = Callable[..., Outcome]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def by_rule(record: dict[str, Any]) -> tuple[bool, float]:
    return rank(record["FA"], record["KID"])


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_quick_evaluations_change_no_weight_and_their_figures_are_in_the_log(
    dualoptim: Run, tiny: str, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ["evaluation.every=4", "run.tracker=tensorboard", "--class", "three", "--out", out]
    outcome = dualoptim("forget", tiny, *options)
    assert outcome.code == 0, outcome.err
    before, after = weights(finished), weights(out)
    assert all(torch.equal(before[name], after[name]) for name in before)
    evaluated = {r["step"]: r for r in records(out) if "FA" in r}
    assert list(evaluated) == [3, 5]  # after 4 steps, and at the end
    assert all(0 <= r["FA"] <= 1 and 0 <= r["RA"] <= 1 and isfinite(r["KID"]) for r in evaluated.values())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in logged.Scalars("FA")] == [4, 6]
    assert len(logged.Scalars("forget_loss")) == 6


def test_pictures_of_equal_seeds_are_kept_along_the_run_and_shown_on_the_page(
    dualoptim: Run, tiny: str, tmp_path: Path
) -> None:
    out, words = tmp_path / "run", ("evaluation.every=4", "--class", "three", "--class", "four")
    assert dualoptim("forget", tiny, *words, "--out", out).code == 0
    kept = {path.name: Image.open(path) for path in (out / "films").iterdir()}
    steps = ("0000000", "0000004", "0000006")
    assert kept.keys() == {f"{name}-step{step}.png" for name in ("three", "four") for step in steps}
    assert len({picture.size for picture in kept.values()}) == 1
    assert len({picture.tobytes() for picture in kept.values()}) == 6  # every step and label draws other images
    page = (out / "report.html").read_text()
    assert page.count('alt="three after ') == page.count('alt="four after ') == 3

    base, film = open_base_model(open_run(out))[0], kept["three-step0000000.png"]
    drawn = sample(base, ["three"], [SEEDS_FROM], device="cpu", num_inference_steps=3, batch_size=6)[3][0]
    cell = draw_cell(drawn)
    assert film.crop((0, 0, *cell.size)).tobytes() == cell.tobytes()


def test_the_best_weights_are_kept_and_the_rule_is_recorded(dualoptim: Run, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["evaluation.every=2", "evaluation.keep=best", "method.ema_decay=0.5", "--class", "three", "--out", out]
    stopped = dualoptim("forget", tiny, *options, "--stop-after", 3)
    assert stopped.code == 75, stopped.err
    outcome = dualoptim("forget", tiny, *options, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    results = json.loads(outcome.out)
    evaluations = [r for r in records(out) if "FA" in r]
    assert [r["step"] for r in evaluations] == [1, 3, 5]
    best = min(evaluations, key=by_rule)
    assert results["selection"]["rule"] == RULE
    assert results["selection"]["step"] == best["step"] + 1
    kept = load_file(out / "best" / "weights.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in weights(out).items())


def test_the_rule_prefers_quality_among_the_forgotten_and_forgetting_otherwise() -> None:
    evaluations = [{"FA": 0.5, "KID": 1.0}, {"FA": 0.02, "KID": 9.0}, {"FA": 0.0, "KID": 10.0}, {"FA": 0.3, "KID": 2.0}]
    assert min(evaluations, key=by_rule) == evaluations[1]
    assert min((evaluations[0], evaluations[3]), key=by_rule) == evaluations[3]


def test_flat_images_are_warned_of_in_the_run_itself(
    dualoptim: Run, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = torch.ones(1, dtype=torch.bool)
    monkeypatch.setattr("dualoptim_diffusion.evaluation.accuracy.degenerate", lambda images: flat.expand(len(images)))
    outcome = dualoptim("forget", tiny, "evaluation.every=6", "--class", "three", "--out", tmp_path / "run")
    assert outcome.code == 0
    flat = "100.0% of its images are one flat colour"
    assert f"Warning: after step 6: The label “three” has collapsed: {flat}" in outcome.err
    before = f"Warning: The label “three” draws as little as before: {flat}."  # here the original's are flat too
    assert f"{before} Open {tmp_path / 'run'}" in outcome.err


def test_what_selects_the_weights_draws_with_other_seeds_than_what_scores_them(
    dualoptim: Run, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []

    class Watched(LazySamples):
        def __init__(self, model: Any, seeds: Any, *rest: Any) -> None:
            seen.append({seed for part in seeds.values() for seed in part})
            super().__init__(model, seeds, *rest)

    monkeypatch.setattr("dualoptim_diffusion.runs.validation.LazySamples", Watched)
    options = ["evaluation.every=6", "evaluation.keep=best", "sampling.seeds=0-3", "--class", "three"]
    outcome = dualoptim("forget", tiny, *options, "--out", tmp_path / "run", "--json")
    assert outcome.code == 0, outcome.err
    assert seen
    assert not seen[0] & set(range(1_000_000))
    assert "with other seeds than the evaluation at the end" in json.loads(outcome.out)["selection"]["rule"]
