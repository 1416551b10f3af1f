"""The experiments on photographs, at toy scale: what a stopped call leaves, how the next one goes on, which cells."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import tables
from studies import experiment, latent_dit, paper_scale
from studies.experiment_tables import DUAL
from studies.photographs import Study, named_folders
from studies.runner import Cell


def call(out: Path, *words: str) -> dict:
    paper_scale.main(["--scale", "toy", "--out", str(out), *words])
    return tables.read_json(out / "paper_scale.json")


@pytest.mark.slow
def test_every_stage_runs_and_a_stop_leaves_a_table_from_which_the_next_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget, trained = Study.forget, []

    def stopped_at_the_second(self: Study, cell: Cell) -> dict:
        if cell.group == paper_scale.SAME:
            raise KeyboardInterrupt
        return forget(self, cell)

    monkeypatch.setattr(Study, "forget", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path)
    (base,) = tables.read_json(tmp_path / "paper_scale.json")["bases"]
    (first,) = base["cells"]
    text = (tmp_path / "paper_scale.md").read_text()
    assert f"| {DUAL} | automobile | 0 |" in text
    assert paper_scale.SAME not in text

    monkeypatch.setattr(Study, "forget", forget)
    monkeypatch.setattr(Study, "train_base", lambda *_: trained.append(1))
    (again,) = call(tmp_path, "--cells", "6")["bases"]
    assert trained == []  # the base model is the one that was kept
    assert again["sha256"] == base["sha256"]
    assert again["cells"][0] == first
    assert [experiment.key(cell) for cell in again["cells"]] == [
        *map(experiment.key, paper_scale.plan(["automobile"]))
    ][:6]
    text = (tmp_path / "paper_scale.md").read_text()
    assert all(f"| {cell['group']} | automobile | {cell['seed']} |" in text for cell in again["cells"])
    assert "| base model | ddpm |" in text
    assert (tmp_path / "paper_scale_automobile.png").stat().st_size > 1000


def test_the_most_telling_cells_come_first_and_none_twice() -> None:
    cells = list(paper_scale.plan(paper_scale.CLASSES))
    first = cells[: 2 * len(paper_scale.CLASSES)]
    assert {cell.group for cell in first} == {paper_scale.SAME, DUAL}
    assert {cell.class_name for cell in first} == set(paper_scale.CLASSES)
    assert {cell.seed for cell in first} == {0}
    keys = [experiment.key(cell) for cell in cells]
    assert len(set(keys)) == len(keys)


def tried(group: str, rate: float, fa: float, ra: float) -> dict:
    return {"group": latent_dit.title_of(group, rate), "after": {"FA": {"value": fa}, "RA": {"value": ra}}}


def test_an_arm_of_the_latent_dit_takes_the_rate_that_forgets_and_keeps_most_on_a_class_of_its_own() -> None:
    names = ["goldfish", "golden retriever", "lemon"]
    finished: list[dict] = []
    cells = latent_dit.plan(names, finished)
    first = [next(cells) for _ in range(2 * len(latent_dit.RATES))]
    assert {cell.class_name for cell in first} == {"goldfish"}
    low, middle, high = latent_dit.RATES
    finished += [tried(DUAL, low, 0.3, 0.99), tried(DUAL, middle, 0.05, 0.8), tried(DUAL, high, 0.0, 0.7)]
    finished += [tried(latent_dit.ONE, rate, fa, 0.9) for rate, fa in ((low, 0.3), (middle, 0.2), (high, 0.4))]
    rest = list(cells)
    assert {cell.class_name for cell in rest} == {"golden retriever", "lemon"}
    for group in (DUAL, latent_dit.ONE):
        assert {o for cell in rest if cell.group == group for o in cell.overrides if "_lr=" in o} == {
            f"method.forget_lr={middle:g}", f"method.retain_lr={middle:g}",
        }  # fmt: skip
    assert len({experiment.key(cell) for cell in [*first, *rest]}) == len(first) + len(rest)


def test_folders_of_photographs_get_the_names_that_a_table_beside_them_has(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for folder in ("n1", "n2"):
            (tmp_path / "data" / part / folder).mkdir(parents=True)
            (tmp_path / "data" / part / folder / f"{folder}.txt").touch()
    assert named_folders(tmp_path / "data", tmp_path, ()) == tmp_path / "data"
    (tmp_path / "data" / "classes.tsv").write_text("n1\tlemon, Citrus limon\nn2\tgoldfish\n")
    found = named_folders(tmp_path / "data", tmp_path, ("lemon",))
    assert [path.relative_to(found).as_posix() for path in sorted(found.glob("*/*/*"))] == [
        "train/lemon/n1.txt", "val/lemon/n1.txt",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_latent_dit_goes_from_photographs_to_its_table(tmp_path: Path) -> None:
    latent_dit.main(["--scale", "toy", "--out", str(tmp_path), "--cells", "8"])
    (base,) = tables.read_json(tmp_path / "latent_dit.json")["bases"]
    assert base["autoencoder"]["n"] == 12
    assert [cell["group"] for cell in base["cells"][6:]] == [DUAL, latent_dit.ONE]
    assert "dB on held-out images" in (tmp_path / "latent_dit.md").read_text()
    assert (tmp_path / "latent_dit_golden_retriever.png").stat().st_size > 1000
