"""The probes by name: one a file."""

from dualoptim_diffusion.audit import embedding_attack, features, inversion, leakage, noisy_start, relearn, weights
from dualoptim_diffusion.audit.context import Probe
from dualoptim_diffusion.core.budget import ProbeName

PROBES: dict[ProbeName, Probe] = {
    "leakage": leakage.PROBE,
    "relearn": relearn.PROBE,
    "embedding_attack": embedding_attack.PROBE,
    "noisy_start": noisy_start.PROBE,
    "inversion": inversion.PROBE,
    "features": features.PROBE,
    "weights": weights.PROBE,
}
