"""The study scripts: cells are kept and not run twice, figures are what the cells say, bad cells are named."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "benchmarks")]

import audit_planted  # noqa: E402
import audit_study  # noqa: E402
import cells  # noqa: E402
import dit_step  # noqa: E402
import kill_and_resume  # noqa: E402
import reproduce_table2  # noqa: E402
import stability  # noqa: E402


def result(group: str, seed: int, fa: float, fd: float, rate: str = "1e-4", before: float = 0.4) -> dict[str, Any]:
    return {
        "group": group,
        "recipe": "r",
        "class_name": "three",
        "seed": seed,
        "overrides": [f"method.forget_lr={rate}"],
        "rate": rate,
        "after": {"FA": fa, "RA": 0.9, "FD": fd},
        "before": {"FA": 0.98, "RA": 0.97, "FD": before},
        "base_sha256": "b",
    }


def test_a_summary_is_mean_and_deviation_over_runs_and_counts_those_that_met_the_aim() -> None:
    runs = [result("dual", 0, 0.0, 0.4), result("dual", 1, 0.02, 0.5), result("dual", 2, 0.04, 0.4)]
    runs.append(result("dual", 3, 0.0, 0.6) | {"after": None})
    summary = cells.summarise(runs)
    assert summary["FA"] == {"mean": pytest.approx(0.02), "sd": pytest.approx(0.02), "max": 0.04}
    assert summary["FD ratio"]["mean"] == pytest.approx((1 + 1.25 + 1) / 3)
    assert (summary["met"], summary["runs"], summary["stopped"]) == (2, 4, 1)


def test_the_stability_table_and_figure_hold_every_group_and_rate(tmp_path: Path) -> None:
    runs = [result(g, s, 0.01 * s, 0.4, rate) for g in stability.GROUPS for s in range(2) for rate in stability.RATES]
    text = stability.tabulate(runs, "command")
    assert text.count("| dual |") == len(stability.RATES) + 1
    assert "0.5% ± 0.7 (max 1.0%)" in text
    stability.draw(runs, tmp_path / "stability.png")
    assert (tmp_path / "stability.png").stat().st_size > 10_000


def test_the_study_covers_every_rate_class_and_seed_for_each_of_its_main_groups() -> None:
    planned = stability.cells(5)
    for group in ("shared, alpha 1", "shared, alpha 10", "dual"):
        assert len({c.key for c in planned if c.group == group}) == 5 * len(stability.RATES) * len(stability.CLASSES)
    assert len({c.key for c in planned}) == len(planned)


def test_a_study_runs_no_cell_twice_and_says_from_how_many_base_models_its_cells_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [cells.Cell("dual", "r", "three", seed, ("method.forget_lr=1e-4",)) for seed in (0, 1)]
    stored = [result("old name", seed, 0.0, 0.4) for seed in (0, 1)]
    (tmp_path / "s.json").write_text(json.dumps({"cells": stored}))
    monkeypatch.setattr(cells, "run_cell", None)  # would fail
    assert [r["group"] for r in cells.run_study(both, tmp_path / "s.json", {}, 1)] == ["dual", "dual"]
    stored[1]["base_sha256"] = "another"
    (tmp_path / "s.json").write_text(json.dumps({"cells": stored}))
    found = cells.run_study(both, tmp_path / "s.json", {}, 1)
    assert cells.origin(found) == "2 runs from 2 base models (another, b)."


def test_a_cell_forgets_and_scores_as_a_run_does(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(cells, "FORGET_IMAGES", 4)
    monkeypatch.setattr(cells, "RETAIN_IMAGES", 4)
    monkeypatch.setattr(cells, "SAMPLING", ())
    done = cells.run_cell(cells.Cell("dual", tiny, "three", 0))
    assert done["after"]["n"] == {"FA": 4, "RA": 36}
    assert done["before"]["FD"] != done["after"]["FD"]
    assert -1 <= done["mean_gradient_cosine"] <= 1
    json.dumps(done)


def results_file(folder: Path, fa: float, fd: float) -> None:
    folder.mkdir(parents=True)
    figures = {"FA": {"value": fa, "n": 500}, "RA": {"value": 0.9, "n": 900}, "frechet": {"name": "FID", "value": fd}}
    original = {
        "FA": {"value": 1.0, "n": 500},
        "RA": {"value": 0.95, "n": 900},
        "frechet": {"name": "FID", "value": 10.0},
    }
    content = {"unlearned": figures, "original": original, "protocol": {"name": "standard"}}
    (folder / "results.json").write_text(json.dumps(content))


def test_the_table_has_a_row_a_method_with_mean_and_deviation_beside_the_published_figures(tmp_path: Path) -> None:
    table = reproduce_table2.Table("cifar10", tmp_path, tmp_path, [], None)
    for class_name, fa, fd in (("cat", 0.01, 20.0), ("dog", 0.03, 22.0)):
        cell = reproduce_table2.Cell("sfron_dual", class_name, 0)
        results_file(table.folder(cell), fa, fd)
        table.take(cell)
    text = table.markdown(["sa", "sfron_dual"], ["cat", "dog"], "command")
    row = next(line for line in text.splitlines() if line.startswith("| SFRon + DualOptim"))
    assert row == (
        "| SFRon + DualOptim | 1.00 / 20.00 | 3.00 / 22.00 | 2.00±1.41 | 21.00±1.41 | 90.00±0.00 | 2.10±0.14 | "
        "0.24±0.39 / 18.77±0.85 |"
    )
    assert "| SA |" in text
    assert "published-cifar10" in text


def test_a_cell_whose_run_was_killed_before_its_report_is_not_finished(tmp_path: Path) -> None:
    table = reproduce_table2.Table("digits", tmp_path, tmp_path, [], None)
    cell = reproduce_table2.Cell("sfron_dual", "three", 0)
    results_file(table.folder(cell), 0.0, 1.0)
    assert not table.finished(cell)


def test_a_failed_cell_is_named_with_its_log_and_the_others_stand(tmp_path: Path) -> None:
    table = reproduce_table2.Table("digits", tmp_path, tmp_path, ["method.no_such_key=1"], 1)
    cell, problem = table.run(reproduce_table2.Cell("finetune", "three", 0))
    assert problem is not None
    assert "digits_finetune three seed 0 failed" in problem
    assert "no_such_key" in table.folder(cell).with_suffix(".log").read_text()
    assert not table.finished(cell)


def test_a_forward_pass_of_dit_xl_2_takes_the_published_work() -> None:
    """118.6 G multiply-adds."""
    assert dit_step.flop_of_forward("XL/2") / 2e9 == pytest.approx(118.6, abs=0.1)


def test_the_table_of_dit_steps_has_ratios_to_its_first_row_and_says_where_memory_ended() -> None:
    rows = [
        {
            "name": row.name,
            "batch_size": row.batch_size,
            "precision": "fp32",
            "seconds": s,
            "peak_bytes": b,
            "parameters": 1e6,
        }
        for row, s, b in zip(dit_step.ROWS, (2.0, 3.0, None), (10**9, 15 * 10**8, None), strict=False)
    ]
    content = {
        "size": "S/2", "command": "c", "device": "d", "torch": "t", "flop_of_forward": 10**9, "rows": rows,
        "matmul_flop_per_second": {"fp32": 6e9}, "drawing": [{"precision": "fp32", "images_per_second": 1.0}],
    }  # fmt: skip
    text = dit_step.tabulate(content)
    assert "| shared, batch 1, fp32, kept latents | 2.000 | 1.00 | 1.00 GB | 1.00 | 50% |" in text
    assert "| dual, full, batch 1, fp32, kept latents | 3.000 | 1.50 | 1.50 GB | 1.50 | 33% |" in text
    assert "| dual, compact, batch 1, fp32, kept latents | out of memory | | | | |" in text


def test_the_table_of_benchmarks_is_what_the_results_beside_it_say() -> None:
    benchmarks = SCRIPTS / "benchmarks"
    runner = importlib.import_module("all")
    text = (benchmarks / "README.md").read_text()
    assert runner.table(benchmarks / "results", "cpu") in text


def test_our_step_is_the_plain_loop_in_float64_to_the_last_bit() -> None:
    assert importlib.import_module("unet_step").check_equal() == 0.0


START = (
    "import os, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])"
)


def test_work_is_killed_with_all_that_it_started_and_not_before_its_folder_is_there(tmp_path: Path) -> None:
    stages = (("late", "late"), (".", "early"))
    code = f"{START}; open('pid', 'w').write(str(child.pid)); time.sleep(0.2); os.mkdir('run'); time.sleep(99)"
    work = kill_and_resume.Work("work", (sys.executable, "-c", code), "run", stages, 1)
    assert kill_and_resume.kill_after(work, tmp_path, 0)
    assert kill_and_resume.state_of(work, tmp_path) == "early"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    ended = kill_and_resume.Work("work", (sys.executable, "-c", "open('run/late', 'w')"), "run", stages, 1)
    assert not kill_and_resume.kill_after(ended, tmp_path, 60)
    assert kill_and_resume.state_of(work, tmp_path) == "late"


def test_what_must_be_equal_of_two_runs_leaves_out_times_and_origins_alone(tmp_path: Path) -> None:
    for name, content in {
        "run/results.json": {"FA": 0.5, "seconds": {"forgetting": 3.0}, "parts": [{"seconds": 1}]},
        "run/provenance.json": {"git": "a"},
        "run/checkpoints/step_1/state.json": {},
        "run/.model.7.part": {},
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    found = kill_and_resume.contents(tmp_path)
    assert found.keys() == {"run/results.json", "run/.model.7.part"}  # litter counts as a difference
    assert json.loads(found["run/results.json"]) == {"FA": 0.5, "parts": [{}]}


@pytest.mark.parametrize(
    ("original", "planted", "control", "caught"),
    [
        (0, 5, 20, True),
        (0, 5, None, True),
        (0, 0, 20, False),
        (0, 20, 20, False),
        (0, None, None, False),
        (5, 7, 20, False),
    ],
)
def test_a_planted_model_is_caught_between_the_untouched_and_the_retrained_one(
    original: int, planted: int | None, control: int | None, caught: bool
) -> None:
    assert audit_planted.is_caught({"original": original, "unlearned": planted, "control": control}) is caught


def test_the_planted_models_in_the_results_are_what_their_steps_say() -> None:
    found = json.loads((SCRIPTS / "benchmarks" / "results" / "audit_planted.json").read_text())["found"]
    assert {part["planted"] for part in found} == {"zeroed", "swapped"}
    assert len({part["seed"] for part in found}) == 3
    for part in found:
        assert part["caught"] is audit_planted.is_caught(part["steps_to_half"])
        assert part["plain_FA"]["unlearned"] <= 0.1 < part["plain_FA"]["original"]


def studied(method: str, fa: float, excess: float, low: float = 0.0) -> dict[str, Any]:
    return {
        "method": method, "class": "three", "seed": 0, "FA": fa, "RA": 0.98, "FD ratio": 1.0,
        "headline": {"difference": excess, "interval": [low, 1.0]},
        "excess": dict.fromkeys(audit_study.ATTACKS, excess),
        "steps_to_half": {"relearn, 10 images": {"unlearned": 10, "control": None}},
        "curves": {"relearn, 10 images": {"unlearned": {"at": [0, 5], "hits": [0, 3], "n": [10, 10]}}},
    }  # fmt: skip


def test_the_study_ranks_those_that_forget_by_excess_and_the_others_last(tmp_path: Path) -> None:
    runs = [studied("finetune", 0.97, 0.0), studied("salun_dual", 0.01, 0.4, 0.2), studied("sfron_dual", 0.0, 0.1)]
    assert [method for method, _ in audit_study.ranking(runs)] == ["sfron_dual", "salun_dual", "finetune"]
    lines = [line for line in audit_study.tabulate(runs, "command").splitlines() if line.startswith("| S")]
    assert lines[0].startswith("| SFRon + DualOptim | 0.0 | 98.0 | 1.00 | 10.0 | 0 of 1 |")
    assert lines[1].split(" | ")[5] == "1 of 1"
    assert lines[1].endswith("| 10 (never) |")
    assert lines[2:] == ["| SFRon + DualOptim | 0 | 30 |", "| SalUn + DualOptim | 0 | 30 |"]
    audit_study.draw(runs, tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 10_000
