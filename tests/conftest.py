"""A tiny experiment on real digits that runs in seconds, and the command line called as a user calls it."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

logging.raiseExceptions = False  # diffusers' handler writes to the stderr of the test that imported it, closed by then

RECIPES = {
    "tiny_pretrain.yaml": {
        "run": {"device": "cpu"},
        "data": {"name": "digits", "batch_size": 16},
        "model": {
            "width": 16,
            "multipliers": [1, 2],
            "layers_per_block": 1,
            "attention_resolutions": [],
            "mid_attention": False,
            "dropout": 0.1,
            "norm_groups": 4,
        },
        "training": {"optimizer": "adamw", "num_steps": 12, "lr": 1e-3, "schedule": "one_cycle", "ema_decay": 0.9},
    },
    "tiny_dit_pretrain.yaml": {
        "run": {"device": "cpu"},
        "data": {"name": "digits", "batch_size": 16},
        "model": {"family": "dit", "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8},
        "training": {"optimizer": "adamw", "num_steps": 12, "lr": 1e-3, "schedule": "one_cycle", "ema_decay": 0.9},
    },
    "tiny_classifier.yaml": {
        "run": {"device": "cpu"},
        "data": {"name": "digits", "batch_size": 32},
        "classifier": {"name": "test_resnet", "image_size": 32},
        "training": {"num_steps": 8, "lr": 1e-3, "max_shift": 1},
    },
    "tiny.yaml": {
        "run": {"device": "cpu"},
        "data": {"name": "digits", "batch_size": 16},
        "model": {"pretrain": "tiny_pretrain.yaml"},
        "method": {
            "name": "sfron",
            "num_steps": 6,
            "forget_lr": 3e-4,
            "retain_lr": 1e-4,
            "mask": {"kind": "fisher_ratio", "threshold": 1.5, "estimator": "plain", "num_batches": 2},
        },
        "sampling": {"num_inference_steps": 3, "seeds": "0-3", "batch_size": 4},
        "evaluation": {
            "protocol": "seeds",
            "classifier": "tiny_classifier.yaml",
            "min_accuracy": 0,
            "features": "classifier",
        },
    },
}


@pytest.fixture
def doubles() -> Iterator[None]:
    """New tensors, drawn noise among them, are float64."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole session, apart from the user's."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("DUALOPTIM_CACHE", str(folder))
    return folder


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


def call(*arguments: object) -> int:
    """The command line in this process; returns its exit code."""
    from accelerate.state import AcceleratorState

    from dualoptim_diffusion.cli import main

    AcceleratorState._reset_state(reset_partial_state=True)  # as in a new process
    before, sys.argv = sys.argv, ["dualoptim", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


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
