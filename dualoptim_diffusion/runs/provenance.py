"""Where a result comes from: command, versions, machine, source revision, inputs, time."""

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGE = "dualoptim-diffusion"
PACKAGES = (PACKAGE, "torch", "torchvision", "diffusers", "accelerate", "timm", "torch-fidelity")


def describe_origin(device: torch.device) -> dict[str, Any]:
    """Command line, package versions, machine and git revision of the running code."""
    return {
        "command": command_line(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "machine": {
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
        },
        "git": _revision(),
    }


def command_line() -> str:
    """The command as it can be typed again."""
    name = Path(sys.argv[0]).name
    program = ["python", "-m", "dualoptim_diffusion"] if name == "__main__.py" else [name]
    return shlex.join([*program, *sys.argv[1:]])


def package_version() -> str:
    """Version of this package; "unknown" where it is not installed."""
    return _version(PACKAGE) or "unknown"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Revision of the checkout this package runs from, if it is one; '+' marks local changes."""
    package = Path(__file__).parent.parent
    if not (package.parent / ".git").exists():
        return None
    try:
        commit, status = (
            subprocess.run(["git", "-C", str(package), *words], capture_output=True, text=True, check=True, timeout=10)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
