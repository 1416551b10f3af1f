"""Name a class, get back a diffusers pipeline that can no longer draw it, and a report that proves it."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualoptim_diffusion.dual_optim import DualOptim
    from dualoptim_diffusion.evaluation import evaluate
    from dualoptim_diffusion.masked_adamw import MaskedAdamW
    from dualoptim_diffusion.models import ConditionalDiTPipeline, load_pipeline
    from dualoptim_diffusion.models.pipeline import ConditionalDDPMPipeline
    from dualoptim_diffusion.models.unet import ConditionalUNet
    from dualoptim_diffusion.unlearn import Phase, unlearn

_HOMES = {
    "ConditionalDDPMPipeline": "dualoptim_diffusion.models.pipeline",
    "ConditionalDiTPipeline": "dualoptim_diffusion.models.dit_pipeline",
    "ConditionalUNet": "dualoptim_diffusion.models.unet",
    "DualOptim": "dualoptim_diffusion.dual_optim",
    "MaskedAdamW": "dualoptim_diffusion.masked_adamw",
    "Phase": "dualoptim_diffusion.unlearn",
    "evaluate": "dualoptim_diffusion.evaluation",
    "load_pipeline": "dualoptim_diffusion.models",
    "unlearn": "dualoptim_diffusion.unlearn",
}

__all__ = [
    "ConditionalDDPMPipeline",
    "ConditionalDiTPipeline",
    "ConditionalUNet",
    "DualOptim",
    "MaskedAdamW",
    "Phase",
    "evaluate",
    "load_pipeline",
    "unlearn",
]


class _Package(ModuleType):
    """Imports a public name when it is first used, so that the command line starts without torch."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):  # the module unlearn must not hide its function
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
