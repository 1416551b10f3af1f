"""The trials of an audit on all of its models: which are to be made, how long they take, and their outcomes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Trial
from dualoptim_diffusion.audit.probes import find_probe
from dualoptim_diffusion.audit.verdict import pool
from dualoptim_diffusion.core.terminal import progress
from dualoptim_diffusion.files.cache import cache_entry, get_or_make
from dualoptim_diffusion.files.json_files import read_json
from dualoptim_diffusion.models.costs import measured
from dualoptim_diffusion.optim.plan import FP32_BYTES
from dualoptim_diffusion.runs.forecast import Speed, bytes_of_activations, num_parameters

COPIES = 4  # of the weights, in an attack that trains: those before, gradients, and Adam's two moments
PLAIN = "plain"  # in place of a probe's name
Outcomes = dict[tuple[str, str], dict[str, dict[str, Any]]]  # by (probe, trial) and role


class Unit(NamedTuple):
    """A trial on one model under one seed.

    Attributes:
        context: with that seed.
        path: of its outcome in the cache.
    """

    probe: str
    trial: Trial
    audited: AuditedModel
    context: AuditContext
    path: Path


def units_of(context: AuditContext, models: Sequence[AuditedModel], work: Sequence[tuple[str, Trial]]) -> list[Unit]:
    """What there is to do: (probe, trial) of `work` on each of the models."""
    with_random = {name for name in {probe for probe, _ in work} - {PLAIN} if find_probe(name).with_random}
    made_from = repr(
        (
            context.classifier.sha256,
            context.judged_as,
            context.forget_classes,
            sorted(context.labels),
            context.train.sha256,
            context.held_out.sha256,
            context.settings.model_dump(mode="json", exclude={"seeds"}),
            context.horizontal_flip,
            next(audited.sha256 for audited in models if audited.role == "original"),
        )
    )
    found = []
    for probe, trial in work:
        for audited in models:
            if audited.role == "random" and probe not in with_random:
                continue
            for seed in trial.seeds(context.budget, audited.role):
                seeded = replace(context, budget=context.budget.model_copy(update={"seed": seed}))
                spent = repr({name: getattr(seeded.budget, name) for name in sorted(trial.settings)})
                key = (made_from, spent, probe, trial.name, trial.made_from, audited.sha256, audited.model.passes)
                path = cache_entry("audits", *key).with_suffix(".json")
                found.append(Unit(probe, trial, audited, seeded, path))
    return found


def run_units(units: Sequence[Unit], forgotten: str) -> Outcomes:
    """Of every trial, by role: from the cache, or made now. Of an attack all models of a role and all seeds are pooled,
    of anything else it is the first model's figures."""
    done: dict[tuple[str, str], dict[str, dict[str, list[dict[str, Any]]]]] = {}
    with progress(total=len(units), desc=f"auditing {forgotten}") as bar:
        for probe, trial, audited, context, path in units:
            bar.set_postfix_str(f"{probe}, {trial.name}, {audited.role}")
            outcome = get_or_make(path, read_json, partial(trial.run, context, audited), _write_outcome)
            roles = done.setdefault((probe, trial.name), {})
            roles.setdefault(audited.role, {}).setdefault(audited.sha256, []).append(outcome)
            bar.update()
    is_attack = {(unit.probe, unit.trial.name): unit.trial.axis is not None for unit in units}
    return {
        which: {
            role: pool(list(by_model.values())) if is_attack[which] else next(iter(by_model.values()))[0]
            for role, by_model in roles.items()
        }
        for which, roles in done.items()
    }


def _write_outcome(path: Path, outcome: dict[str, Any]) -> None:
    path.write_text(json.dumps(outcome, allow_nan=False) + "\n", encoding="utf-8")


def forecast(units: Sequence[Unit], speed: Speed) -> dict[str, Any]:
    """Of each probe what is still to be made, with its passes, seconds and bytes, and of all of them together.

    Bytes are those of weights, and where an attack trains, of its copies of them and the activations of a batch.
    """
    context = units[0].context
    weights, models = FP32_BYTES * num_parameters(context.original.network), {unit.audited.sha256 for unit in units}
    training = COPIES * weights + bytes_of_activations(context.original.copied(), context.budget.batch_size)
    judging = _seconds_of_judging(context) / context.passes_an_image()  # a pass, of the image that it helps to draw
    found: dict[str, dict[str, Any]] = {}
    for probe in dict.fromkeys(unit.probe for unit in units):
        left = [unit for unit in units if unit.probe == probe and not unit.path.exists()]
        costs = [unit.trial.cost for unit in left]
        forward, backward = sum(cost.forward for cost in costs), sum(cost.backward for cost in costs)
        judged = sum(unit.trial.cost.forward for unit in left if unit.trial.axis is not None)
        seconds = forward * speed.forward + judged * judging + backward * speed.backward + _others(left)
        beside = max((measure(context) for measure in {cost.bytes for cost in costs} if measure is not None), default=0)
        found[probe] = {
            "trials": sum(unit.probe == probe for unit in units),
            "kept": sum(unit.probe == probe for unit in units) - len(left),
            "forward_passes": forward,
            "training_passes": backward,
            "estimated_seconds": round(seconds, 1),
            "bytes_of_weights_and_activations": len(models) * weights + (training if backward else 0) + beside,
        }
    return {
        "probes": found,
        "estimated_seconds": round(sum(part["estimated_seconds"] for part in found.values()), 1),
        "bytes_of_weights_and_activations": max(p["bytes_of_weights_and_activations"] for p in found.values()),
    }


def _others(units: Sequence[Unit]) -> float:
    """Seconds of all that is no pass of the diffusion network; each kind is measured once, or once a seed."""
    each = [unit.trial.cost.other for unit in units if unit.trial.cost.other is not None]
    once = {(m, unit.context.budget.seed): unit.context for unit in units if (m := unit.trial.cost.once) is not None}
    by_kind = sum(each.count(measure) * measure(units[0].context) for measure in set(each))
    return by_kind + sum(measure(context) for (measure, _), context in once.items())


def _seconds_of_judging(context: AuditContext) -> float:
    """Of the judge on one image, from a batch of those that are drawn at once."""

    def judge(count: int) -> None:
        context.hits(torch.zeros(count, *context.original.image_shape, dtype=torch.uint8))

    return measured(judge, context.device, context.drawn_at_once)
