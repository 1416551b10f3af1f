"""Methods and optimizers of other packages, by path and by entry point: checked, run and told of like ours."""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from dualoptim_diffusion.core import plugins
from dualoptim_diffusion.runs.experiment import open_experiment
from tests.helpers.commands import Outcome, refused

Run = Callable[..., Outcome]
DOCS = (Path(__file__).parents[2] / "configs" / "README.md").read_text()
TEMPLATE = re.search(r'```python\n(""".*?mine.py""".*?)```', DOCS, re.DOTALL)[1]
MORE = """
from torch.optim import SGD

from dualoptim_diffusion.audit.context import Probe, Trial


def halved(params, lr):
    return SGD(params, lr=lr / 2)


def plain(params, lr):
    return SGD(params, lr=lr)


def nothing(params, lr):
    return None


class Other:
    pass


def trials(context):
    def run(context, audited):
        return {"at": [0, 1], "hits": [0, 1], "n": [context.budget.images] * 2}

    return [Trial("counted", run, ("images",), "step")]


def first_digits(path):
    from dualoptim_diffusion.core.config import DataConfig
    from dualoptim_diffusion.data import ImageSet, load_dataset

    return tuple(part.of_classes(range(10)) for part in load_dataset(DataConfig(name="digits")))


PROBE = Probe(question="Is one drawn of each?", source="Nobody, 2026", trials=trials)
"""
ASCENT = "method.name=mypackage.mine:BoundedAscent"
CEILING = "method.options={ceiling: 40}"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of the documentation, where Python finds it."""
    root = tmp_path / "site"
    (root / "mypackage").mkdir(parents=True)
    (root / "mypackage" / "mine.py").write_text(TEMPLATE + MORE)
    (root / "mypackage" / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(root))
    yield root
    for name in [name for name in sys.modules if name.startswith("mypackage")]:
        del sys.modules[name]


def register(monkeypatch: pytest.MonkeyPatch, kind: str, name: str, value: str) -> None:
    point = EntryPoint(name, value, f"dualoptim_diffusion.{kind}")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == point.group else [])


def test_the_method_of_the_documentation_forgets_and_its_run_is_read_by_every_command(
    dualoptim: Run, tiny: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = dualoptim("forget", tiny, "--class", "three", ASCENT, CEILING, "--out", out)
    assert done.code == 0, done.err
    assert json.loads((out / "provenance.json").read_text())["recipe_sha256"]
    for words in (["evaluate", out], ["report", out], ["grid", out]):
        assert dualoptim(*words).code == 0


def test_its_settings_act_and_are_part_of_the_hash(tiny: str) -> None:
    ways = {
        text: open_experiment(tiny, ["three"], [ASCENT, f"method.options={{ceiling: {text}}}"]) for text in ("9", "40")
    }
    assert ways["9"].recipe_sha256 != ways["40"].recipe_sha256
    assert ways["9"].method.options.ceiling == 9
    nested = open_experiment(tiny, ["three"], [ASCENT, "method.options.ceiling=9"])
    assert nested.recipe_sha256 == ways["9"].recipe_sha256


WRONG = {
    "a setting that is missing": ([ASCENT], "the key ceiling is missing"),
    "a setting out of range": ([ASCENT, "method.options={ceiling: -1}"], "ceiling is -1, expected greater than 0"),
    "an unknown setting": ([ASCENT, "method.options={ceiling: 1, cieling: 2}"], "no key cieling; did you mean ceiling"),
    "settings of a method that has none": (["method.options={ceiling: 1}"], "no key ceiling"),
    "a module that is not there": (["method.name=nowhere.mine:Mine"], "cannot be loaded (ModuleNotFoundError"),
    "a module that fails": (["method.name=mypackage.broken:Mine"], "cannot be loaded (ZeroDivisionError"),
    "a name that is not in it": (["method.name=mypackage.mine:Mine"], "cannot be loaded (AttributeError"),
    "what is no method": (["method.name=mypackage.mine:Other"], "is no method; derive it from"),
    "what makes no optimizer": (["optimizers.forget=mypackage.mine:nothing"], "makes a NoneType"),
    "an optimizer that is not there": (["optimizers.forget=mypackage.mine:none"], "cannot be loaded (AttributeError"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_sentence(words: list[str], said: str, dualoptim: Run, tiny: str, tmp_path: Path) -> None:
    refused(dualoptim("forget", tiny, "--class", "three", *words, "--out", tmp_path / "run"), said)


def test_a_registered_method_is_named_without_its_path_and_listed(
    dualoptim: Run, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "methods", "bounded_ascent", "mypackage.mine:BoundedAscent")
    planned = dualoptim("forget", tiny, "--class", "three", "method.name=bounded_ascent", CEILING, "--dry-run")
    assert planned.code == 0, planned.err
    listed = {method["name"]: method for method in json.loads(dualoptim("methods", "--json").out)}
    assert listed["bounded_ascent"]["forget_step"] == "Increases the denoising loss of the class up to a ceiling."
    refused(dualoptim("forget", tiny, "--class", "three", "method.name=bounded_ascend", "--dry-run"), "bounded_ascent")


def test_an_optimizer_takes_the_steps_by_its_name_or_its_path(
    dualoptim: Run, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "optimizers", "halved", "mypackage.mine:halved")
    weights = []
    for name, rate in (("halved", 2e-3), ("mypackage.mine:plain", 1e-3)):
        words = (f"optimizers.forget={name}", f"method.forget_lr={rate}", "optimizers.retain=sgd")
        done = dualoptim("forget", tiny, "--class", "three", *words, "--out", out := tmp_path / str(rate))
        assert done.code == 0, done.err
        weights.append((out / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_probe_is_run_kept_reported_and_made_anew_when_its_code_changes(
    dualoptim: Run, finished: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    register(monkeypatch, "probes", "counted", "mypackage.mine:PROBE")
    for name in ("mypackage.mine:PROBE", "counted"):
        done = dualoptim("audit", run, "audit.images=4", "--probe", name)
        assert done.code == 0, done.err
        found = json.loads((run / "audit.json").read_text())["probes"][name]
        assert found["question"] == "Is one drawn of each?"
        assert found["trials"]["counted"]["outcomes"]["unlearned"]["hits"][1] == 1
    assert "Is one drawn of each?" in (run / "report.html").read_text()
    path = package / "mypackage" / "mine.py"
    path.write_text(path.read_text().replace('"hits": [0, 1]', '"hits": [0, 3]'))
    shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)  # valid for a file of equal size and second
    del sys.modules["mypackage.mine"]
    importlib.invalidate_caches()
    assert dualoptim("audit", run, "audit.images=4", "--probe", "counted").code == 0
    probes = json.loads((run / "audit.json").read_text())["probes"]
    assert probes["counted"]["trials"]["counted"]["outcomes"]["unlearned"]["hits"][1] == 3
    refused(dualoptim("audit", run, "--probe", "countd"), "There is no probe 'countd': did you mean counted")
    refused(dualoptim("audit", run, "--probe", "mypackage.mine:Other"), "is no probe")


def test_a_data_set_is_forgotten_from_like_ours(
    dualoptim: Run, recipes: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "datasets", "first_digits", "mypackage.mine:first_digits")
    for i, name in enumerate(("first_digits", "mypackage.mine:first_digits")):
        for path in recipes.glob("tiny*.yaml"):
            (tmp_path / path.name).write_text(path.read_text().replace("name: digits", f"name: {name}"))
        done = dualoptim("forget", tmp_path / "tiny.yaml", "--class", "three", "--out", tmp_path / str(i))
        assert done.code == 0, done.err
        weights = "model/unet/diffusion_pytorch_model.safetensors"
        assert (tmp_path / str(i) / weights).read_bytes() == (finished / weights).read_bytes()
    for name, said in (
        ("first", "data.name is 'first', expected"),
        ("mypackage.mine:nothing", "fails (TypeError"),
        ("mypackage.mine:Other", "fails (TypeError"),
        ("mypackage.mine:PROBE", "makes no pair"),
    ):
        words = ("forget", recipes / "tiny.yaml", "--class", "three", f"data.name={name}", "--dry-run")
        refused(dualoptim(*words), said)
