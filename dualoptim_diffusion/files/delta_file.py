"""Patch files: the weights of a model that differ from another's, with the hashes of both; safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.json_files import complaint

FORMAT = "dualoptim_delta"
VALUES, INDICES, BITS = "values.", "indices.", "bits."  # before the name of a tensor
INDEX_TYPES = (torch.int32, torch.int64)
WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


class Header(BaseModel):
    """What a patch says of itself, as JSON in the file's metadata.

    Attributes:
        base_sha256, result_sha256: `model_sha256` of the model that it changes and of what becomes of that.
        forgotten: names of all classes that the result was made to forget.
        method, recipe_sha256: of the run.
        class_names: names of the result's classes in the order of their ids.
        null_class: row of a stock base's class table that means no class, as the recipe named it.
    """

    model_config = ConfigDict(strict=True)

    format_version: Literal[1] = 1
    base_sha256: str
    result_sha256: str
    forgotten: list[str]
    method: str
    recipe_sha256: str
    package_version: str
    class_names: list[Annotated[str, Field(min_length=1)]]
    null_class: int | None


class Delta(NamedTuple):
    """A patch.

    Attributes:
        tensors: `values.NAME` holds the new weights of a tensor: all of them in its shape, or N of them, [N]. Which
            these are say either `indices.NAME`, rising flat indices [N] in int32 or int64, or `bits.NAME`, one bit a
            weight, uint8 [weights / 8, rounded up], the first weight in the highest bit of the first byte.
    """

    path: Path
    header: Header
    tensors: dict[str, Tensor]


def changed_weights(base: Mapping[str, Tensor], result: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a patch: of each tensor whose bytes differ the smallest form, and nothing of the others.

    Args:
        base, result: tensors of equal names, shapes and types, on the CPU.

    Raises:
        ValueError: if a name, a shape or a type differs.
    """
    if base.keys() != result.keys():
        raise ValueError(f"{min(base.keys() ^ result.keys())} is in one alone")
    tensors: dict[str, Tensor] = {}
    for name, new in result.items():
        _check_alike(name, new, base[name])
        new = new.contiguous()
        changed = _numbers(new) != _numbers(base[name].contiguous())
        if changed.any():
            tensors |= _smallest_form(name, new, changed)
    return tensors


def _smallest_form(name: str, new: Tensor, changed: Tensor) -> dict[str, Tensor]:
    """The form of fewest bytes that holds the changed weights, bool [N]: all, or some with their indices or bits."""
    places = changed.nonzero()[:, 0]
    values = new.view(-1)[places]
    index_type = INDEX_TYPES[new.numel() > torch.iinfo(torch.int32).max]
    forms: tuple[dict[str, Tensor], ...] = (
        {VALUES + name: new},
        {VALUES + name: values, INDICES + name: places.to(index_type)},
        {VALUES + name: values, BITS + name: torch.from_numpy(np.packbits(changed.numpy()))},
    )
    return min(forms, key=lambda form: sum(tensor.nbytes for tensor in form.values()))


def patched(base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a base with those of a patch written over them; the base's own tensors stay as they are.

    Raises:
        ValueError: naming the first tensor that does not fit the base.
    """
    if strangers := [name for name in tensors if not name.startswith((VALUES, INDICES, BITS))]:
        raise ValueError(f"it holds the tensor {strangers[0]}, expected {VALUES}NAME, {INDICES}NAME or {BITS}NAME")
    values, indices, bits = (_after(prefix, tensors) for prefix in (VALUES, INDICES, BITS))
    if alone := (indices.keys() | bits.keys()) - values.keys() or indices.keys() & bits.keys():
        raise ValueError(f"it lacks the values of {min(alone)}, or says twice where they belong")
    result = dict(base)
    for name, new in values.items():
        if (old := base.get(name)) is None:
            raise ValueError(f"the base has no tensor {name}")
        if name not in indices.keys() | bits.keys():
            _check_alike(name, new, old)
            result[name] = new
            continue
        size = old.numel()
        places = _rising(name, indices[name], size) if name in indices else _set_bits(name, bits[name], size)
        _check_alike(f"{VALUES}{name}", new, old.new_empty(len(places)))
        result[name] = old.flatten().index_copy(0, places, new).view(old.shape)
    return result


def _after(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_alike(name: str, found: Tensor, expected: Tensor) -> None:
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        forms = (f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in (found, expected))
        raise ValueError(f"{name} is {', expected '.join(forms)}")


def _rising(name: str, indices: Tensor, size: int) -> Tensor:
    """Flat indices, found to be different ones of `size` weights: int64 [N]."""
    if indices.ndim != 1 or indices.dtype not in INDEX_TYPES:
        raise ValueError(f"{INDICES}{name} is no list of whole numbers")
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < size:
        raise ValueError(
            f"{INDICES}{name} reaches from {indices.min()} to {indices.max()}, but there are {size} weights"
        )
    if not (indices.diff() > 0).all():
        raise ValueError(f"{INDICES}{name} repeats numbers or does not rise")
    return indices.long()


def _set_bits(name: str, bits: Tensor, size: int) -> Tensor:
    """Flat indices of the weights whose bits are set: int64 [N]."""
    _check_alike(BITS + name, bits, torch.empty(-(-size // 8), dtype=torch.uint8))
    return torch.from_numpy(np.unpackbits(bits.numpy())[:size]).nonzero()[:, 0]


def _numbers(tensor: Tensor) -> Tensor:
    """[N] whole numbers, equal where the bytes of the weights are: NaN is equal to itself, -0.0 not to 0.0."""
    return tensor.view(-1).view(WHOLE_NUMBERS[tensor.element_size()])


def write_delta(path: Path, header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Writes a patch in one piece; equal content gives equal bytes, as several entries of metadata would not."""
    with atomic_path(path) as beside:
        save_file(dict(tensors), beside, metadata={FORMAT: header.model_dump_json()})


def read_delta(path: Path) -> Delta:
    """A patch, its header checked.

    Raises:
        InputError: if it is missing, damaged, or no patch that this version reads.
    """
    if not path.is_file():
        raise InputError(f"There is no patch file {str(path)!r}; `dualoptim delta` makes one.")
    try:
        with safe_open(path, framework="pt") as stored:
            if (said := (stored.metadata() or {}).get(FORMAT)) is None:
                raise ValueError(f"its metadata have no entry {FORMAT}")
            header = Header.model_validate_json(said)
            return Delta(path, header, {name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        why = complaint(error) if isinstance(error, ValidationError) else reason(error)
        raise InputError(f"{path} is no sound patch ({why}); make one with `dualoptim delta`.") from None
