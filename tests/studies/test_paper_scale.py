"""The study at the paper's scale, at toy scale: what a stopped call leaves, and how the next one goes on."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import tables
from studies import paper_scale
from studies.photographs import Study
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
    assert f"| {paper_scale.DUAL} | n0 | 0 |" in text
    assert paper_scale.SAME not in text

    monkeypatch.setattr(Study, "forget", forget)
    monkeypatch.setattr(Study, "train_base", lambda *_: trained.append(1))
    (again,) = call(tmp_path, "--cells", "6")["bases"]
    assert trained == []  # the base model is the one that was kept
    assert again["sha256"] == base["sha256"]
    assert again["cells"][0] == first
    assert [paper_scale.key(cell) for cell in again["cells"]] == [*map(paper_scale.key, paper_scale.plan(["n0"]))][:6]
    text = (tmp_path / "paper_scale.md").read_text()
    assert all(f"| {cell['group']} | n0 | {cell['seed']} |" in text for cell in again["cells"])
    assert "| base model | ddpm |" in text
    assert (tmp_path / "paper_scale_n0.png").stat().st_size > 1000


def test_the_most_telling_cells_come_first_and_none_twice() -> None:
    cells = list(paper_scale.plan(paper_scale.CLASSES))
    first = cells[: 2 * len(paper_scale.CLASSES)]
    assert {cell.group for cell in first} == {paper_scale.SAME, paper_scale.DUAL}
    assert {cell.class_name for cell in first} == set(paper_scale.CLASSES)
    assert {cell.seed for cell in first} == {0}
    keys = [paper_scale.key(cell) for cell in cells]
    assert len(set(keys)) == len(keys)
