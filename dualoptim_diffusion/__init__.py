"""Name a class, get back a diffusers pipeline that can no longer draw it, and a report that proves it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualoptim_diffusion.dual_optim import DualOptim
    from dualoptim_diffusion.evaluation import evaluate
    from dualoptim_diffusion.models.pipeline import ConditionalDDPMPipeline, load_pipeline
    from dualoptim_diffusion.models.unet import ConditionalUNet
    from dualoptim_diffusion.unlearn import Phase, unlearn

_HOMES = {
    "ConditionalDDPMPipeline": "dualoptim_diffusion.models.pipeline",
    "ConditionalUNet": "dualoptim_diffusion.models.unet",
    "DualOptim": "dualoptim_diffusion.dual_optim",
    "Phase": "dualoptim_diffusion.unlearn",
    "evaluate": "dualoptim_diffusion.evaluation",
    "load_pipeline": "dualoptim_diffusion.models.pipeline",
    "unlearn": "dualoptim_diffusion.unlearn",
}

__all__ = [
    "ConditionalDDPMPipeline",
    "ConditionalUNet",
    "DualOptim",
    "Phase",
    "evaluate",
    "load_pipeline",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that the command line starts without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # also replaces the submodule of the same name by the function
    return value
