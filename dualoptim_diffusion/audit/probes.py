"""The probes by name: one a file; others from other packages."""

import inspect
from dataclasses import replace
from pathlib import Path

from dualoptim_diffusion.audit import (
    classifier_guided,
    embedding_attack,
    features,
    inversion,
    leakage,
    membership,
    noise_based,
    noisy_start,
    quantise,
    relearn,
    weights,
)
from dualoptim_diffusion.audit.context import AuditContext, Probe, Trial
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.hashes import file_sha256
from dualoptim_diffusion.core.plugins import find_among

PROBES: dict[str, Probe] = {
    "leakage": leakage.PROBE,
    "relearn": relearn.PROBE,
    "embedding_attack": embedding_attack.PROBE,
    "noisy_start": noisy_start.PROBE,
    "classifier_guided": classifier_guided.PROBE,
    "inversion": inversion.PROBE,
    "features": features.PROBE,
    "weights": weights.PROBE,
    "noise_based": noise_based.PROBE,
    "quantise": quantise.PROBE,
    "membership": membership.PROBE,
}


def find_probe(name: str) -> Probe:
    """The probe of that name, here or in another package (`core.plugins`).

    Raises:
        InputError: if there is none; the nearest names are listed.
    """
    found = find_among("probes", PROBES, name)
    if not isinstance(found, Probe):
        raise InputError(f"{name} is no probe; make it one of dualoptim_diffusion.audit.context.Probe.")
    return found


def trials_of(name: str, context: AuditContext) -> list[Trial]:
    """The trials of a probe; outcomes of another package's are kept by the hash of its file."""
    probe = find_probe(name)
    trials, source = probe.trials(context), inspect.getsourcefile(probe.trials)
    if name in PROBES or source is None:
        return trials
    code = file_sha256(Path(source))
    return [replace(trial, made_from=trial.made_from + code) for trial in trials]
