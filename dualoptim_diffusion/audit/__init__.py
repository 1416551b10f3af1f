"""Is it really gone? Probes that attack a result, always beside the original and a model that never saw the class."""

from dualoptim_diffusion.audit import (
    embedding_attack,
    features,
    inversion,
    leakage,
    noisy_start,
    relearn,
    weights,
)
from dualoptim_diffusion.audit.budget import BUDGETS, PROBE_NAMES, AuditConfig, Budget, ProbeName
from dualoptim_diffusion.audit.scene import Probe, Scene, Subject, Trial

__all__ = [
    "BUDGETS",
    "PROBES",
    "PROBE_NAMES",
    "AuditConfig",
    "Budget",
    "Probe",
    "ProbeName",
    "Scene",
    "Subject",
    "Trial",
]

PROBES: dict[ProbeName, Probe] = {
    "leakage": leakage.PROBE,
    "relearn": relearn.PROBE,
    "embedding_attack": embedding_attack.PROBE,
    "noisy_start": noisy_start.PROBE,
    "inversion": inversion.PROBE,
    "features": features.PROBE,
    "weights": weights.PROBE,
}
