"""Every key of a recipe either acts, or is named as one that the method does not read; its hash says which."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import UNHASHED
from dualoptim_diffusion.runs.experiment import Experiment, open_experiment
from dualoptim_diffusion.unlearning.methods import METHODS
from tests.helpers.commands import Outcome

Run = Callable[..., Outcome]

OTHER: dict[str, list[Any]] = {  # values that differ from the tiny recipe's and from the defaults
    "method.update": ["joint"],
    "method.num_steps": [7],
    "method.num_steps_per": ["class"],
    "method.forget_steps": [2],
    "method.retain_steps": [2],
    "method.forget_lr": [2e-3],
    "method.retain_lr": [2e-3],
    "method.forget_weight": [0.5],
    "method.forget_weight_schedule": ["constant"],
    "method.retain_weight": [0.5],
    "method.loss_exponent": [0.25],
    "method.forget_ceiling": [2.0],
    "method.negative_guidance": [0.5],
    "method.replay_per_class": [3],
    "method.fisher_timesteps": [2],
    "method.penalty_weight": [3.0],
    "method.forget_schedule": ["cosine"],
    "method.retain_schedule": ["cosine"],
    "method.clip_norm": [0.5, "null"],
    "method.clip_retain": ["false"],
    "method.ema_decay": [0.9],
    "method.mask": ["null", "{kind: top_fraction}"],
    "method.options": ["{strength: 2}"],
    "optimizers.mode": ["shared", "dual_plus", "dual_m", "dual_v"],
    "optimizers.forget": ["sgd"],
    "optimizers.retain": ["sgd"],
    "optimizers.forget_momentum": [0.5],
    "optimizers.retain_momentum": [0.5],
    "optimizers.forget_state": ["compact"],
    "optimizers.retain_state": ["compact", "8bit"],
    "optimizers.fused": ["true"],
}


def acts(experiment: Experiment) -> tuple[Any, ...]:
    """All that a run takes from the two sections, and the optimizers that it builds."""
    recipe = experiment.recipe
    unhashed = UNHASHED.get("optimizers", set())
    plan = experiment.optimizers
    return recipe.method.model_dump(), recipe.optimizers.model_dump(exclude=unhashed), plan


def opened(tiny: str, method: str, *words: str) -> Experiment:
    return open_experiment(tiny, ["three"], [f"method.name={method}", *words])


def test_the_table_has_every_key(tiny: str) -> None:
    recipe = opened(tiny, "sfron").recipe
    keys = {f"method.{key}" for key in type(recipe.method).model_fields} - {"method.name"}
    assert keys | {f"optimizers.{key}" for key in type(recipe.optimizers).model_fields} == OTHER.keys()


@pytest.mark.parametrize("method", METHODS)
def test_a_key_acts_or_is_named_as_dropped_and_the_hash_tells_which(
    tiny: str, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = opened(tiny, method)
    for key, values in OTHER.items():
        for value in values:
            capsys.readouterr()
            try:
                changed = opened(tiny, method, f"{key}={value}")
            except InputError:
                continue  # one sentence says why it cannot be
            dropped = key in capsys.readouterr().err
            assert (changed.recipe_sha256 == base.recipe_sha256) == dropped, f"{key}={value}"
            assert (acts(changed) == acts(base)) == dropped, f"{key}={value}"


@pytest.mark.parametrize("verb", ["", "--dry-run"])
def test_a_family_that_the_model_is_not_of_is_refused(dualoptim: Run, tiny: str, tmp_path: Path, verb: str) -> None:
    words = ["forget", tiny, "--class", "three", "model.family=dit", *verb.split(), "--out", str(tmp_path / "run")]
    result = dualoptim(*words)
    assert result.code != 0
    assert "model.family is dit, but " in result.err
    assert "tiny_pretrain.yaml is a ddpm model" in result.err
    assert not (tmp_path / "run").exists()
