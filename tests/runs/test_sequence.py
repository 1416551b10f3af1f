"""One request after another: each starts from the model before it, and earlier classes are counted again."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dualoptim_diffusion.core.rates import rate
from dualoptim_diffusion.report.sequence import markdown, sentences
from dualoptim_diffusion.runs.sequence import _name_revived
from tests.helpers.commands import Outcome

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def chain(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sequence") / "out"


def test_each_request_starts_from_the_model_before_it_and_all_forgotten_classes_are_counted(
    dualoptim: Command, tiny: str, chain: Path
) -> None:
    done = dualoptim("forget", tiny, "--class", "three", "--then", "eight", "--then", "five", "--out", chain, "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert content == json.loads((chain / "sequence.json").read_text())
    assert list(content["before"]) == ["three", "eight", "five"]
    assert [list(part["own"]) for part in content["requests"]] == [
        ["three"], ["three", "eight"], ["three", "eight", "five"],
    ]  # fmt: skip
    runs = [chain / part["run"] for part in content["requests"]]
    assert [run.name for run in runs] == ["1-three", "2-eight", "3-five"]
    origins = [json.loads((run / "provenance.json").read_text()) for run in runs]
    for before, after in pairwise(origins):
        assert after["base_model_sha256"] == before["model_sha256"]
    assert [part["model_sha256"] for part in content["requests"]] == [origin["model_sha256"] for origin in origins]
    last = json.loads((runs[2] / "results.json").read_text())
    assert last["forgotten_before"] == ["three", "eight"]
    assert "three" not in last["unlearned"]["RA"]["per_class"]
    first = json.loads((runs[0] / "results.json").read_text())["unlearned"]["FA"]
    assert content["requests"][0]["FA"]["hits"] == content["requests"][0]["own"]["three"]["hits"] == first["hits"]
    assert content["requests"][2]["FA"]["n"] == 3 * first["n"]
    assert "| 3: five |" in (chain / "sequence.md").read_text()
    assert (chain / "sequence.png").stat().st_size > 1000


def test_a_finished_sequence_is_resumed_without_a_change_and_can_go_on(
    dualoptim: Command, tiny: str, chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (chain / "sequence.json").read_bytes()
    words = ("forget", tiny, "--class", "three", "--then", "eight", "--then", "five", "--out", chain)
    again = dualoptim(*words)
    assert again.code == 1
    assert "exists; choose another --out, or give --resume or --overwrite" in again.err
    monkeypatch.setattr("dualoptim_diffusion.runs.sequence.forget", None)
    done = dualoptim(*words, "--resume")
    assert done.code == 0, done.err
    assert "three" in done.out
    assert (chain / "sequence.json").read_bytes() == before


def test_a_sequence_that_was_stopped_goes_on_to_the_same_models(
    dualoptim: Command, tiny: str, chain: Path, tmp_path: Path
) -> None:
    words = ("forget", tiny, "--class", "three", "--then", "eight", "--out", tmp_path / "out")
    assert dualoptim(*words, "--stop-after", "2").code == 75
    assert not (tmp_path / "out" / "sequence.json").exists()
    assert dualoptim(*words, "--resume").code == 0
    whole, again = (json.loads((folder / "sequence.json").read_text()) for folder in (chain, tmp_path / "out"))
    assert [part["model_sha256"] for part in again["requests"]] == [
        part["model_sha256"] for part in whole["requests"][:2]
    ]


SMALL = ("audit.images=2", "audit.relearn=[1]", "audit.relearn_steps=[0,1]", "audit.batch_size=4", "--probe", "relearn")


def test_the_model_after_each_request_is_audited_for_all_classes_so_far_beside_models_without_any_of_them(
    dualoptim: Command, tiny: str, chain: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "out"
    shutil.copytree(chain, copied)
    planned = dualoptim("audit", copied, *SMALL, "--retrain", "--dry-run", "--json")
    assert planned.code == 0, planned.err
    plans = json.loads(planned.out)
    assert {name: plan["forget"] for name, plan in plans.items()} == {
        "1-three": ["three"], "2-eight": ["three", "eight"], "3-five": ["three", "five", "eight"],
    }  # fmt: skip
    done = dualoptim("audit", copied, *SMALL, "--retrain", "--controls", "1", "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert content == json.loads((copied / "sequence.json").read_text())
    first, second, _ = (json.loads((copied / part["run"] / "audit.json").read_text()) for part in content["requests"])
    assert second["forgotten"] == ["three", "eight"]
    assert second["plain"]["unlearned"]["n"] == 2 * first["plain"]["unlearned"]["n"] == 4
    assert second["models"]["original"] == first["models"]["original"], "what was there before any request"
    assert second["models"]["control"] != first["models"]["control"]
    for part, audit in zip(content["requests"], (first, second), strict=False):
        assert part["audit"]["headline"] == audit["headline"]
        assert f"{audit['headline']['decision']}: " in (copied / "sequence.md").read_text()
    assert "“three” and “eight” draw" in (copied / "2-eight" / "report.html").read_text()
    kept = dualoptim(
        "forget", tiny, "--class", "three", "--then", "eight", "--then", "five", "--out", copied, "--resume"
    )
    assert kept.code == 0, kept.err
    assert json.loads((copied / "sequence.json").read_text()) == content


def test_a_sequence_that_was_moved_is_audited_and_one_whose_model_was_replaced_is_refused(
    dualoptim: Command, tiny: str, chain: Path, tmp_path: Path
) -> None:
    words = (*SMALL, "--dry-run", "--json")
    assert dualoptim("forget", tiny, "--class", "one", "--then", "two", "--out", tmp_path / "out").code == 0
    (tmp_path / "out").rename(tmp_path / "moved")
    planned = dualoptim("audit", tmp_path / "moved" / "2-two", *words)
    assert planned.code == 0, planned.err
    assert json.loads(planned.out)["forget"] == ["one", "two"]
    shutil.rmtree(tmp_path / "moved" / "1-one")
    shutil.copytree(chain / "1-three", tmp_path / "moved" / "1-one")
    refused = dualoptim("audit", tmp_path / "moved" / "2-two", *words)
    assert refused.code == 1
    assert "The base model is not the one that the run" in refused.err


@pytest.mark.parametrize("content", ["{", "[]", '{"kind": "dualoptim sequence"}', '{"kind": "x", "requests": []}'])
def test_a_damaged_sequence_is_one_sentence(dualoptim: Command, tmp_path: Path, content: str) -> None:
    (tmp_path / "sequence.json").write_text(content)
    refused = dualoptim("audit", tmp_path)
    assert refused.code == 1
    assert "is not what `dualoptim forget --then` writes" in refused.err
    assert len(refused.err.strip().splitlines()) == 1


def test_a_moved_base_model_is_audited_for_the_classes_of_its_own_run(dualoptim: Command, chain: Path) -> None:
    moved = f"model.path={chain / '1-three' / 'model'}"
    planned = dualoptim("audit", chain / "2-eight", *SMALL, moved, "--dry-run", "--json")
    assert planned.code == 0, planned.err
    assert json.loads(planned.out)["forget"] == ["eight"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--class", "three", "--then", "thirteen"), "thirteen"),
        (("--class", "three", "--then", "eight", "--then", "three"), "classes of its own"),
        (("--class", "three", "--then", "eight", "--then", "8"), "classes of its own"),
        (("--then", "eight"), "classes of its own"),
        (("--class", "three", "--then", "eight", "--dry-run"), "leave out --then"),
        (("--class", "three", "--then", "eight", "--mask", "m"), "leave out --then"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_the_first_is_begun(
    words: tuple[str, ...], told: str, dualoptim: Command, tiny: str, tmp_path: Path
) -> None:
    done = dualoptim("forget", tiny, *words, "--out", tmp_path / "out")
    assert done.code != 0
    assert told in done.err
    assert not (tmp_path / "out").exists()


def request(*names: str, **own: tuple[int, int]) -> dict[str, Any]:
    return {
        "forgotten": list(names), "own": {name: rate(*counts) for name, counts in own.items()}, "FA": rate(1, 100),
        "RA": rate(90, 100), "kid": None,
    }  # fmt: skip


def test_a_request_that_revives_an_earlier_class_is_named_and_chance_is_not() -> None:
    requests = [request("a", a=(0, 100)), request("b", a=(2, 100), b=(1, 100)), request("c", a=(30, 100), b=(2, 100))]
    for i in range(3):
        requests[2]["own"].setdefault("c", rate(0, 100))
        _name_revived(requests[: i + 1])
    assert [part["revived"] for part in requests] == [[], [], ["a"]]
    content = {"recipe": "r", "before": {name: rate(99, 100) for name in "abc"}, "requests": requests}
    assert sentences(content) == ["Request 3 (c) revived “a”."]
    assert "| 2: b | 2.0% (0.6% to 7.0%) | 1.0% (0.2% to 5.4%) |  | 1.0% | 90.0% |  |" in markdown(content)
    assert sentences(content | {"requests": requests[:2]}) == ["No request surely revived an earlier class."]
