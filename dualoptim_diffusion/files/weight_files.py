"""Weights from files of others: only tensors are read, no code in a file runs."""

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError

WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the weights


class PublishedWeights(NamedTuple):
    """What a training script saved of a denoiser, names without `module.` prefixes."""

    raw: dict[str, Tensor]
    ema: dict[str, Tensor] | None  # the moving average, where the file has one
    step: int | None  # of the training that saved it, where the file says so


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a `.safetensors` file or of a torch file, without `module.` prefixes.

    Raises:
        InputError: if it is missing, damaged, or holds anything but tensors.
    """
    with _one_sentence(path):
        return _named_tensors(_load(path))


def read_published(path: Path) -> PublishedWeights:
    """The weights of a list `[state_dict, optimizer_state, step, ema_shadow]` without its later parts or with them.

    A file of named tensors, as `read_tensors` takes it, is read as raw weights, with the `ema` beside them if any.

    Raises:
        InputError: if it is missing, damaged, or holds anything but tensors and plain values.
    """
    with _one_sentence(path):
        content = _load(path)
        if isinstance(content, Mapping):
            ema = content.get("ema")
            return PublishedWeights(
                _named_tensors(content), _named_tensors(ema) if isinstance(ema, Mapping) else None, None
            )
        if not isinstance(content, list | tuple):
            raise ValueError("it holds something other than named tensors")
        state, _, step, ema = (list(content) + 4 * [None])[:4]
        return PublishedWeights(
            _named_tensors(state), _named_tensors(ema) if ema else None, step if isinstance(step, int) else None
        )


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Says in one sentence why a file cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"There is no weight file {str(path)!r}.") from None
    except Exception as error:  # torch.load raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if foreign := re.search(r"GLOBAL (\S+)", str(error)):  # torch's own text advises to trust the file
            reason = f"it holds an object of the kind {foreign[1]}"
        raise InputError(f"{path} cannot be read as a file of plain tensors ({reason}).") from None


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals([argparse.Namespace]):  # beside original DiT weights; it runs nothing
        return torch.load(path, map_location="cpu", weights_only=True)


def _named_tensors(state: Any) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("it holds something other than named tensors")
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"it names a tensor {name!r}")
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise ValueError(f"its tensor {name} is sparse, quantized, complex or without values")
    return {name.removeprefix("module."): value for name, value in state.items()}


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and bytes: equal weights, equal hash."""
    content = sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return content.hexdigest()
