"""The scripts: each runs at toy scale; cells are kept and not run twice; figures are what the cells say."""

import ast
import importlib
import json
import re
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import tables
from benchmarks import dit_step, measuring, setup, unet_step
from command import parse, parser
from dualoptim_diffusion.audit.verdict import pool
from studies import audit_errors, audit_study, audit_study_tables, kill_and_resume, reproduce_table2, runner
from studies.runner import Cell
from studies.works import Work

SCRIPTS = Path(__file__).parent.parent / "scripts"
RESULTS = SCRIPTS / "results"
MODULES = sorted(path.relative_to(SCRIPTS) for path in SCRIPTS.rglob("*.py"))
RUNNABLE = [path for path in MODULES if '__name__ == "__main__"' in (SCRIPTS / path).read_text()]
OF_ALL = ("optimizer_state", "unet_step", "drawing", "evaluation", "dit_step")  # run by all.py at toy scale too
SLOW = ("studies", "processes", "startup", "threads")  # in CI others of the same parts of scripts/ run
ELSEWHERE = ("paper_scale", "latent_dit", "claim")  # run by a test of its own in tests/studies
START = (
    "import os, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])"
)
FLOORS = (("tables", "machine", "toy"), ("command",), ("studies", "benchmarks"))  # from the ground up


@pytest.mark.parametrize("script", RUNNABLE, ids=str)
def test_every_script_tells_in_one_paragraph_what_it_does(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(SCRIPTS)])  # it finds its neighbours itself
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert end.value.code == 0
    usage, about, *_ = capsys.readouterr().out.split("\n\n")
    assert usage.startswith(f"usage: {script.name}")
    assert "--scale" in usage
    assert 100 < len(about) < 1000
    assert "python scripts/" in (SCRIPTS / script).read_text().partition('"""\n')[0]


@pytest.fixture(scope="module")
def all_benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("benchmarks")
    importlib.import_module("benchmarks.all").main(["--scale", "toy", "--minutes", "30", "--out", str(out)])
    return out


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, marks=[pytest.mark.slow] if {path.stem, path.parts[0]} & {*SLOW} else [])
        for path in RUNNABLE
        if path.stem not in ELSEWHERE
    ],
    ids=str,
)
def test_every_script_runs_to_its_end_at_toy_scale(
    script: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if script.stem in ("all", *OF_ALL):
        pattern = "README.md" if script.stem == "all" else f"{script.stem}*.md"
        found = list(request.getfixturevalue("all_benchmarks").glob(pattern))
    else:
        main = importlib.import_module(".".join(script.with_suffix("").parts)).main
        main(["--scale", "toy", "--out", str(tmp_path)])
        found = list(tmp_path.glob("*.md"))
    (result,) = found
    assert re.search(r"^\|.*\d", result.read_text(), re.MULTILINE), "no figure in the table"


def problems_in(found: Any) -> list[str]:
    """Of all rows, but for libraries that are not there."""
    if isinstance(found, list):
        return [problem for part in found for problem in problems_in(part)]
    if not isinstance(found, dict):
        return []
    own = [found["problem"]] if "problem" in found and "not installed" not in found["problem"] else []
    return own + problems_in(list(found.values()))


def test_no_row_of_a_benchmark_fails(all_benchmarks: Path) -> None:
    paths = list(all_benchmarks.glob("*.json"))
    assert len(paths) == len(OF_ALL)
    assert [problem for path in paths for problem in problems_in(json.loads(path.read_text()))] == []


def test_benchmarks_without_time_say_what_is_missing_and_make_a_table(tmp_path: Path) -> None:
    benchmarks = importlib.import_module("benchmarks.all")
    benchmarks.main(["--scale", "toy", "--minutes", "0", "--out", str(tmp_path)])
    for name in OF_ALL:
        (path,) = tmp_path.glob(f"{name}*.json")
        assert set(problems_in(json.loads(path.read_text()))) == {measuring.OUT_OF_TIME}
        assert measuring.OUT_OF_TIME in path.with_suffix(".md").read_text()
    assert "| what | measured | aim |" in (tmp_path / "README.md").read_text()


@dataclass(frozen=True)
class Sized:
    name: str
    needs: str | None = None


def test_a_row_that_fails_is_recorded_and_the_next_ones_are_measured(tmp_path: Path) -> None:
    def work(row: Sized) -> dict[str, Any]:
        if row.name == "large":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if row.name == "broken":
            raise ValueError("a | b\nmore")
        assert json.loads((tmp_path / "b_cpu.json").read_text())["rows"][-1]["problem"] == measuring.NOT_MEASURED
        return {"seconds": 1.0}

    arguments = measuring.parse(measuring.parser("b.py", "What."), ["--out", str(tmp_path)])
    rows = [Sized("large"), Sized("broken"), Sized("rare", needs="no_such_library"), Sized("small")]
    benchmark = measuring.Benchmark(arguments, "b", {}, lambda content: "table", here=True)
    benchmark.stem = tmp_path / "b_cpu"
    benchmark.run(rows, work)
    found = json.loads((tmp_path / "b_cpu.json").read_text())["rows"]
    expected = ["out of memory", "ValueError: a / b", "no_such_library is not installed", None]
    assert [row.get("problem") for row in found] == expected
    assert measuring.there(found) == found[3:]


def test_a_benchmark_that_overruns_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmarks = importlib.import_module("benchmarks.all")
    monkeypatch.setattr(benchmarks, "HERE", tmp_path)
    pid = tmp_path / "pid"
    (tmp_path / "slow.py").write_text(f"{START}; open({str(pid)!r}, 'w').write(str(child.pid)); time.sleep(99)")
    (tmp_path / "wrong.py").write_text("raise SystemExit(3)")
    assert benchmarks.run("slow", tmp_path, 1, 2).startswith("stopped after 2 s")
    assert not psutil.pid_exists(child := int(pid.read_text())) or psutil.Process(child).status() == "zombie"
    assert benchmarks.run("wrong", tmp_path) == "exit code 3"


def test_what_a_benchmark_leaves_of_its_share_goes_to_the_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmarks, shares = importlib.import_module("benchmarks.all"), []

    def run_one(name: str, out: Path, own: float, limit: float) -> str:
        shares.append(own)
        assert limit == pytest.approx(min(own + benchmarks.OVER, 100 + benchmarks.OVER_IN_ALL), abs=1)
        return "failed" if name == "drawing" else ""

    assert benchmarks.run_all(run_one, Path(), 100) == {"drawing": "failed"}
    assert shares[0] == pytest.approx(34, abs=1)
    assert shares[-1] == pytest.approx(100, abs=1)


def test_the_toy_scale_does_not_write_to_the_results_unless_it_is_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    options = parser("script.py", "What it does.\n\n    not part of the help")
    assert parse(options, []).out == RESULTS
    out = parse(options, ["--scale", "toy"]).out
    assert RESULTS not in (out, *out.parents)
    assert str(out) in capsys.readouterr().out
    assert "not part" not in options.format_help()
    out.rmdir()


@pytest.mark.parametrize("script", MODULES, ids=str)
def test_scripts_import_from_lower_floors_and_never_from_the_tests(script: Path) -> None:
    level_of = {name: level for level, names in enumerate(FLOORS) for name in names}
    own = script.parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse((SCRIPTS / script).read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for other in {name.partition(".")[0] for name in names} - {own}:
            assert other != "tests"
            assert level_of.get(other, -1) < level_of[own], f"{script} imports {other}"


def test_a_table_has_a_head_a_rule_and_rows_and_a_spread_is_in_points_of_its_percentage() -> None:
    assert tables.table(["a", "b"], [[1, "x"]]) == ["| a | b |", "| --- | --- |", "| 1 | x |"]
    assert tables.spread([0.01, 0.03], ".1%") == "2.0% ± 1.4"
    assert tables.spread([2.0, 4.0], ".2f", "±") == "3.00±1.41"
    assert tables.spread([0.5], ".3f") == "0.500"
    assert tables.rate({"value": 0.5, "ci95": [0.25, 0.75], "n": 4}) == "50.0% (25.0% to 75.0%, n = 4)"


def result(group: str, seed: int, fa: float, fd: float, rate: str = "1e-4", before: float = 0.4) -> dict[str, Any]:
    return {
        "group": group,
        "recipe": "r",
        "class_name": "three",
        "seed": seed,
        "overrides": [f"method.forget_lr={rate}"],
        "after": {"FA": fa, "RA": 0.9, "KID": fd},
        "before": {"FA": 0.98, "RA": 0.97, "KID": before},
        "base_sha256": "b",
    }


def test_a_study_runs_no_cell_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [Cell("dual", "r", "three", seed, ("method.forget_lr=1e-4",)) for seed in (0, 1)]
    stored = [result("old name", seed, 0.0, 0.4) for seed in (0, 1)]
    (tmp_path / "s.json").write_text(json.dumps({"cells": stored}))
    monkeypatch.setattr(runner, "run_cell", None)  # would fail
    assert [r["group"] for r in runner.run_study(both, tmp_path / "s.json", {}, 1)] == ["dual", "dual"]


def test_a_cell_forgets_and_scores_as_a_run_does(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FORGET_IMAGES", 4)
    monkeypatch.setattr(runner, "RETAIN_IMAGES", 4)
    monkeypatch.setattr(runner, "SAMPLING", ())
    done = runner.run_cell(Cell("dual", tiny, "three", 0))
    assert done["after"]["n"] == {"FA": 4, "RA": 36}
    assert done["before"]["KID"] != done["after"]["KID"]
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
    table = reproduce_table2.Table("cifar10", tmp_path, [])
    for class_name, fa, fd in (("cat", 0.01, 20.0), ("dog", 0.03, 22.0)):
        cell = table.cell("sfron_dual", class_name, 0)
        results_file(table.folder(cell), fa, fd)
        table.take(cell)
    table.save(["sa", "sfron_dual"], ["cat", "dog"], tmp_path / "table", "command")
    text = (tmp_path / "table.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| SFRon + DualOptim"))
    assert row == (
        "| SFRon + DualOptim | 1.00 / 20.00 | 3.00 / 22.00 | 2.00±1.41 | 21.00±1.41 | 90.00±0.00 | 2.10±0.14 | "
        "0.24±0.39 / 18.77±0.85 |"
    )
    assert "| SA |" in text
    assert "published-cifar10" in text


def test_a_cell_whose_run_was_killed_before_its_report_is_not_finished(tmp_path: Path) -> None:
    table = reproduce_table2.Table("digits", tmp_path, [])
    cell = table.cell("sfron_dual", "three", 0)
    results_file(table.folder(cell), 0.0, 1.0)
    assert not table.finished(cell)


def test_a_failed_cell_is_named_with_its_log_and_the_others_stand(tmp_path: Path) -> None:
    table = reproduce_table2.Table("digits", tmp_path, ["method.no_such_key=1"], here=True)
    cell, problem = table.run(table.cell("finetune", "three", 0))
    assert problem is not None
    assert "digits_finetune three seed 0 failed" in problem
    assert "no_such_key" in table.folder(cell).with_suffix(".log").read_text()
    assert not table.finished(cell)


def test_a_forward_pass_of_dit_xl_2_takes_the_published_work() -> None:
    """118.6 G multiply-adds."""
    assert dit_step.flop_of_image("XL/2") / 2e9 == pytest.approx(118.6, abs=0.1)


def test_the_table_of_dit_steps_has_ratios_to_its_first_row_and_says_where_memory_ended() -> None:
    ways = [dit_step.Row(), dit_step.Row("dual"), dit_step.Row("dual", "compact")]
    rows: list[dict[str, Any]] = [
        {"name": way.name, "batch_size": 1, "precision": "fp32", "seconds": s, "peak_bytes": b, "parameters": 1e6}
        for way, s, b in zip(ways, (2.0, 3.0, None), (10**9, 15 * 10**8, None), strict=True)
    ]
    rows[2]["problem"] = "out of memory"
    drawing = {"name": "drawing", "precision": "fp32", "at_once": 3, "seconds": 10.0, "images_per_second": 1.0}
    content = {
        "size": "S/2", "command": "c", "device": "d", "torch": "t", "flop_of_forward": 10**9, "rows": rows,
        "matmul_flop_per_second": {"fp32": 6e9}, "drawing": [drawing | {"peak_bytes": 10**9}],
        "drawn_at_once": 3,
    }  # fmt: skip
    text = dit_step.tabulate(content)
    assert "| shared, batch 1, fp32, kept latents | 2.000 | 1.00 | 1.00 GB | 1.00 | 50% |" in text
    assert "| dual, full, batch 1, fp32, kept latents | 3.000 | 1.50 | 1.50 GB | 1.50 | 33% |" in text
    assert "| dual, compact, batch 1, fp32, kept latents | out of memory |  |  |  |  |" in text
    assert "| drawing | 1.00 | 1.00 GB | 10% |" in text


def test_the_table_of_benchmarks_is_what_the_results_beside_it_say() -> None:
    text = (SCRIPTS / "benchmarks" / "README.md").read_text()
    assert importlib.import_module("benchmarks.all").table(RESULTS, "cpu") in text


def test_our_step_is_the_plain_loop_in_float64_to_the_last_bit() -> None:
    assert unet_step.check_equal(setup.SMALL_UNET) == 0.0


def test_work_is_killed_with_all_that_it_started_and_not_before_its_folder_is_there(tmp_path: Path) -> None:
    stages = (("late", "late"), (".", "early"))
    code = f"{START}; open('pid', 'w').write(str(child.pid)); time.sleep(0.2); os.mkdir('run'); time.sleep(99)"
    work = Work("work", (sys.executable, "-c", code), "run", stages, 1)
    assert kill_and_resume.kill_after(work, tmp_path, 0)
    assert kill_and_resume.state_of(work, tmp_path) == "early"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    ended = Work("work", (sys.executable, "-c", "open('run/late', 'w')"), "run", stages, 1)
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


def test_the_table_of_the_audits_errors_counts_decisions_by_kind_of_model() -> None:
    def audit(model: str, decision: str, fa: float = 0.02) -> dict[str, Any]:
        return {
            "class": "three", "model": model, "plain FA": fa, "budget": {"name": "quick", "images": 50, "seeds": 2},
            "controls": [7, 8], "headline": {"decision": decision, "probe": "relearn"},
        }  # fmt: skip

    found = [audit(f"retrained {seed}", "cannot tell") for seed in range(3)] + [audit("retrained 0", "left")]
    found += [audit("swapped", "left", 0.0), audit("swapped", "gone", 0.0) | {"controls": [7, 8, 9]}]
    text = audit_errors.tabulate(found, "command")
    assert "| retrained | 3 | 2.0% ± 0.0 | 2 | 4 | 1 (25%) | 3 (75%) | 0 (0%) | relearn 1 |" in text
    assert "| swapped | 1 | 0.0% | 2 | 1 | 1 (100%) | 0 (0%) | 0 (0%) | relearn 1 |" in text
    assert "| swapped | 1 | 0.0% | 3 | 1 | 0 (0%) | 0 (0%) | 1 (100%) |  |" in text


def test_the_controls_of_a_finished_audit_may_be_fewer_as_if_it_had_been_made_beside_them() -> None:
    models = [[{"at": [0, 5], "hits": [k, 2 * k + seed], "n": [20, 20]} for seed in range(2)] for k in range(4)]
    curves = {"unlearned": pool(models[:1]), "control": pool(models[1:])}
    assert audit_errors._beside(curves, (0, 2)) == {"unlearned": pool(models[:1]), "control": pool(models[1::2])}


def test_planting_that_is_stopped_leaves_the_run_as_it_was_and_another_recipe_is_planted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, made = audit_errors.Study(tmp_path, ()), []
    run, planted = study.table.folder(study.cell("swapped", "three")), study.folder("swapped", "three")
    run.mkdir(parents=True)
    (run / "provenance.json").write_text('{"recipe_sha256": "one"}')

    def stopped(part: Path, change: object) -> None:
        (part / "model").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(audit_errors, "replace_model", stopped)
    with pytest.raises(KeyboardInterrupt):
        study.plant("swapped", "three")
    assert not planted.exists()
    assert [path.name for path in run.iterdir()] == ["provenance.json"]

    monkeypatch.setattr(audit_errors, "replace_model", lambda part, change: made.append(change))
    monkeypatch.setattr(reproduce_table2.Table, "call", lambda *_: None)
    for recipe in ("one", "one", "other"):
        (run / "provenance.json").write_text(json.dumps({"recipe_sha256": recipe}))
        study.plant("swapped", "three")
        assert [path.name for path in planted.iterdir()] == ["provenance.json"]
    assert len(made) == 2


def studied(method: str, fa: float, excess: float, low: float = 0.0) -> dict[str, Any]:
    """A run and its audit, as `dualoptim` leaves them, and what the study keeps of both."""
    figures = {"FA": {"value": fa}, "RA": {"value": 0.98}, "kid": {"value": 0.003}}
    audit: dict[str, Any] = {"models": {}, "probes": {}, "excess": []}
    for probe, attack, difference in (("relearn", "10 images of the class", excess), ("quantise", "rounded", 0.0)):
        for at, less in ((0, 0.0), (5, 0.1)):
            point = {"probe": probe, "attack": attack, "at": at, "difference": difference - less}
            point |= {"FA": {"value": difference + 0.1 - less}, "control": {"value": 0.1}}
            audit["excess"].append(point | {"interval": [low + less / 2, 1.0]})  # the second is surer
    audit["headline"] = audit["excess"][1] | {"decision": "left" if low > 0 else "cannot tell"}
    curves = {role: {"at": [0, 5], "hits": [0, 3], "n": [10, 10]} for role in ("unlearned", "control")}
    trial = {"outcomes": curves, "steps_to_half": {"unlearned": 5, "control": None}}
    audit["probes"]["relearn"] = {"trials": {"10 images of the class": trial}}
    audit["probes"]["membership"] = {"trials": {"loss": {"outcomes": {role: {"AUC": 0.5} for role in curves}}}}
    where = {"group": method, "class_name": "three", "seed": 0}
    return where | audit_study.kept({"original": figures, "unlearned": figures}, audit)


def test_the_study_ranks_those_that_forget_by_excess_and_the_others_last(tmp_path: Path) -> None:
    runs = [studied("finetune", 0.97, 0.1), studied("salun_dual", 0.01, 0.4, 0.2), studied("sfron_dual", 0.0, 0.2)]
    assert [method for method, _ in audit_study_tables.ranking(runs)] == ["sfron_dual", "salun_dual", "finetune"]
    text = audit_study_tables.tabulate(runs, "command")
    rows = [line for line in text.splitlines() if line.startswith(("| S", "| relearn", "| quantise"))]
    lines = [line for line in rows if " less " not in line]
    assert lines[0] == "| SFRon + DualOptim | 1 | 0.0 | 98.0 | 0.0 | 0 | 1 | 0 | 10.0 |  | 5 × 1 | never × 1 |"
    assert lines[1] == "| SalUn + DualOptim | 1 | 1.0 | 98.0 | 0.0 | 1 | 0 | 0 | 30.0 | relearn 1 | 5 × 1 | never × 1 |"
    assert lines[2] == "| relearn: 10 images of the class | 20 (+10) | 40 (+30) | 10 (+0) |"
    assert lines[3] == "| quantise: rounded | 0 (-10) | 0 (-10) | 0 (-10) |"
    assert lines[4:6] == ["| SFRon + DualOptim | 0.50; +0.00 |", "| SalUn + DualOptim | 0.50; +0.00 |"]
    assert lines[6:] == ["| SFRon + DualOptim | 0 | 30 |", "| SalUn + DualOptim | 0 | 30 |"]
    assert not [line for line in rows if " less " in line]
    text = audit_study_tables.tabulate([*runs, studied("salun_joint", 0.02, 0.1)], "command")
    assert "| SalUn + DualOptim less SalUn | 1 | 1 / 0 (p = 1.000) | -1.0 | 0.0 | 0.0 | 0.0 |" in text
    audit_study_tables.draw(runs, tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 10_000
