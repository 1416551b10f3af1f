"""The probes by name: one a file; others from other packages."""

import inspect
from pathlib import Path

from dualoptim_diffusion.audit import embedding_attack, features, inversion, leakage, noisy_start, relearn, weights
from dualoptim_diffusion.audit.context import Probe
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.hashes import file_sha256
from dualoptim_diffusion.core.plugins import find_among

PROBES: dict[str, Probe] = {
    "leakage": leakage.PROBE,
    "relearn": relearn.PROBE,
    "embedding_attack": embedding_attack.PROBE,
    "noisy_start": noisy_start.PROBE,
    "inversion": inversion.PROBE,
    "features": features.PROBE,
    "weights": weights.PROBE,
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


def code_of(name: str) -> str:
    """What a kept outcome depends on besides its trial: of another package's probe the hash of its file."""
    if name not in PROBES and name != "plain" and (source := inspect.getsourcefile(find_probe(name).trials)):
        return file_sha256(Path(source))
    return ""
