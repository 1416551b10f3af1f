"""A tiny experiment on real digits that runs in seconds, and the command line called as a user calls it."""

import logging
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.commands import Outcome, call
from tests.helpers.recipes import RECIPES

logging.raiseExceptions = False  # diffusers' handler writes to the stderr of the test that imported it, closed by then


@pytest.fixture
def doubles() -> Iterator[None]:
    """New tensors, drawn noise among them, are float64."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole session, apart from the user's."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("DUALOPTIM_CACHE", str(folder))
    patch.setattr("dualoptim_diffusion.models.costs.LARGEST_PROBE", 2)  # a dry run need not time many passes
    for place in ("page.draw_curves", "audits.render"):  # most runs here are alike
        patch.setattr(f"dualoptim_diffusion.report.{place}", drawn_once(place))
    return folder


def drawn_once(place: str) -> Callable[..., Any]:
    """The function that draws figures, but each only once: a page takes longer than a tiny model's training."""
    module, name = place.split(".")
    draw = getattr(import_module(f"dualoptim_diffusion.report.{module}"), name)
    drawn: dict[str, Any] = {}

    def remembered(*content: Any) -> Any:
        key = repr(content)
        if key not in drawn:
            drawn[key] = draw(*content)
        return drawn[key]

    return remembered


@pytest.fixture(scope="session")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny recipes."""
    folder = tmp_path_factory.mktemp("recipes")
    for name, content in RECIPES.items():
        (folder / name).write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="session")
def tiny(recipes: Path) -> str:
    """Path of the tiny recipe."""
    return str(recipes / "tiny.yaml")


@pytest.fixture
def dualoptim(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Calls the command line in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = call(*arguments)
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def finished(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that forgot "three"."""
    out = tmp_path_factory.mktemp("runs") / "three"
    assert call("forget", tiny, "--class", "three", "--out", out) == 0
    return out
