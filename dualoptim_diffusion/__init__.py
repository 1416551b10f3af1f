"""Name a class, get back a diffusers pipeline that can no longer draw it, and a report that shows it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualoptim_diffusion.evaluation import evaluate
    from dualoptim_diffusion.models import ConditionalDiTPipeline, load_pipeline
    from dualoptim_diffusion.models.loading import load_model
    from dualoptim_diffusion.models.pipeline import ConditionalDDPMPipeline
    from dualoptim_diffusion.models.unet import ConditionalUNet
    from dualoptim_diffusion.models.wrapped import wrap
    from dualoptim_diffusion.optim.dual_optim import DualOptim
    from dualoptim_diffusion.optim.masked_adamw import MaskedAdamW
    from dualoptim_diffusion.runs.from_python import Forgotten, forget, sample
    from dualoptim_diffusion.unlearning.loop import Phase, unlearn

__all__ = [
    "ConditionalDDPMPipeline",
    "ConditionalDiTPipeline",
    "ConditionalUNet",
    "DualOptim",
    "Forgotten",
    "MaskedAdamW",
    "Phase",
    "evaluate",
    "forget",
    "load_model",
    "load_pipeline",
    "sample",
    "unlearn",
    "wrap",
]

_MODULES = {
    "ConditionalDDPMPipeline": "models.pipeline",
    "ConditionalDiTPipeline": "models.dit_pipeline",
    "ConditionalUNet": "models.unet",
    "DualOptim": "optim.dual_optim",
    "Forgotten": "runs.from_python",
    "MaskedAdamW": "optim.masked_adamw",
    "Phase": "unlearning.loop",
    "evaluate": "evaluation",
    "forget": "runs.from_python",
    "load_model": "models.loading",
    "load_pipeline": "models",
    "sample": "runs.from_python",
    "unlearn": "unlearning.loop",
    "wrap": "models.wrapped",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that the command line starts without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
