"""What the scripts say about the machine that they ran on."""

import platform
from importlib.metadata import version
from typing import Any

import torch

LIBRARIES = ("accelerate", "bitsandbytes", "diffusers", "torch-fidelity", "torchvision")


def where() -> dict[str, Any]:
    """The device and the versions of what ran on it."""
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    return {
        "device": device,
        "torch": torch.__version__,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }


def kind() -> str:
    """`gpu` or `cpu`; result files of speed and memory are named after it."""
    return "gpu" if torch.cuda.is_available() else "cpu"
