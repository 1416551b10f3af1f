"""Weights from files of others: only tensors are read, no code in a file runs."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dualoptim_diffusion.errors import InputError

WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the weights


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a `.safetensors` file or of a torch file, without `module.` prefixes.

    Raises:
        InputError: if it is missing, damaged, or holds anything but tensors.
    """
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        for key in WRAPPERS:
            if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
                state = state[key]
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it holds something other than named tensors")
    except FileNotFoundError:
        raise InputError(f"There is no weight file {str(path)!r}.") from None
    except Exception as error:  # torch.load raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} cannot be read as a file of plain tensors ({reason}).") from None
    return {name.removeprefix("module."): value for name, value in state.items()}


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    return sha256(path.read_bytes()).hexdigest()
