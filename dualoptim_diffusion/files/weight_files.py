"""Weights from files of others: only tensors are read, no code in a file runs."""

import argparse
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.json_files import read_json
from dualoptim_diffusion.files.wrappings import Reading, fitting_readings, listed

# What scripts save beside weights and runs nothing: arguments, paths, and numpy's values, under old and new addresses.
BESIDE_WEIGHTS: list[Any] = [argparse.Namespace, np.dtype, np.ndarray]
BESIDE_WEIGHTS += [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "u4", "u8", "?")]
BESIDE_WEIGHTS += [(PurePosixPath, f"pathlib.{module}PosixPath") for module in ("", "_local.")]
BESIDE_WEIGHTS += [
    (value.__reduce__()[0], f"numpy.{core}.multiarray.{name}")
    for value, name in ((np.float64(0), "scalar"), (np.zeros(0), "_reconstruct"))
    for core in ("core", "_core")
]

STEM = "diffusion_pytorch_model"  # of the weights in a part of a pipeline folder
FORMATS = ("safetensors", "bin")  # the first is taken where both are there
PART_FILE = re.compile(
    rf"{STEM}(?:\.(?P<variant>\w+))?\.(?P<format>safetensors|bin)(?P<index>\.index(?:\.(?P<of_index>\w+))?\.json)?"
)


class PublishedWeights(NamedTuple):
    """What a training script saved of a denoiser, under the network's own names."""

    raw: dict[str, Tensor]
    ema: dict[str, Tensor] | None  # the moving average, where the file has one
    step: int | None  # of the training that saved it, where the file says so


def read_weights(path: Path, wanted: Collection[str]) -> dict[str, Tensor]:
    """Named tensors of a network, without whatever a training script put around them.

    Args:
        path: a `.safetensors` file, the `.index.json` of several, or a torch file.
        wanted: names of tensors of the network, or some that every network of its kind has.

    Raises:
        InputError: if it is missing, damaged, or holds anything but tensors and plain values.
    """
    with _one_sentence(path):
        return stored_tensors(path, wanted)


def stored_tensors(path: Path, wanted: Collection[str]) -> dict[str, Tensor]:
    """As `read_weights`; with several containers that fit, says which is read.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is anything else.
    """
    return _chosen(path, fitting_readings(_content(path), wanted)).tensors


def read_published(path: Path, wanted: Collection[str]) -> PublishedWeights:
    """The weights of a list `[state_dict, optimizer_state, step, ema_shadow]` without its later parts or with them.

    Any other file is read as `read_weights` does, with the moving average beside the weights if there is one. A file
    with a moving average alone has it as raw weights too.

    Raises:
        InputError: if it is missing, damaged, or holds anything but tensors and plain values.
    """
    with _one_sentence(path):
        content = _content(path)
        readings = fitting_readings(content, wanted)
        averages = [reading for reading in readings if reading.is_ema]
        raw = _chosen(path, [reading for reading in readings if not reading.is_ema] or averages)
        step = content[2] if isinstance(content, list | tuple) and len(content) > 2 else None
        return PublishedWeights(
            raw.tensors, _plain(averages[0]).tensors if averages else None, step if isinstance(step, int) else None
        )


def write_published(path: Path, content: list[Any] | dict[str, Tensor]) -> None:
    """Writes the torch file that research code reads, in one piece: tensors and plain values alone."""
    with atomic_path(path) as beside, beside.open("wb") as file:  # to a path, torch would write its name into the file
        torch.save(content, file)


def part_weights(folder: Path) -> Path:
    """The file of weights in a part of a pipeline folder: of whole weights, else of a variant; safetensors, else .bin.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := PART_FILE.fullmatch(path.name):
            variant = match["variant"] or match["of_index"] or ""
            found[variant, FORMATS.index(match["format"]), match["index"] is not None] = path
    if not found:
        raise FileNotFoundError(f"there is no file named {STEM}.safetensors or {STEM}.bin in {folder}")
    chosen = min(found)
    if chosen[0] and len(variants := {variant for variant, _, _ in found}) > 1:
        say(f"{folder} holds the variants {listed(sorted(variants))}; {chosen[0]} is read.")
    return found[chosen]


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Says in one sentence why a file cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"There is no weight file {str(path)!r}.") from None
    except ValueError as error:
        raise InputError(
            f"{path} cannot be read as a file of plain tensors ({error}); give a file of the network's state_dict."
        ) from None


def _content(path: Path) -> Any:
    """What a file holds.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is damaged, or holds more than tensors and plain values.
    """
    try:
        if path.suffix == ".json":
            return _sharded(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(BESIDE_WEIGHTS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch.load raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if foreign := re.search(r"GLOBAL (\S+)", str(error)):  # torch's own text advises to trust the file
            reason = f"it holds an object of the kind {foreign[1]}"
        raise ValueError(reason) from None


def _sharded(index: Path) -> dict[str, Tensor]:
    """The tensors that an index names, each from its shard, which lies beside it."""
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError("it is no index of shards: it has no weight_map")
    tensors: dict[str, Tensor] = {}
    for name in sorted({str(place) for place in places.values()}):
        if not name or name != Path(name).name or "\\" in name or Path(name).suffix == ".json":
            raise ValueError(f"it names the shard {name!r}, expected a file of weights beside it")
        if not (index.parent / name).is_file():
            raise ValueError(f"its shard {name} is missing")
        shard = _content(index.parent / name)
        here = [tensor for tensor, place in places.items() if place == name]
        if lacking := [tensor for tensor in here if not isinstance(shard, Mapping) or tensor not in shard]:
            raise ValueError(f"its shard {name} lacks {listed(lacking)}")
        tensors |= {tensor: shard[tensor] for tensor in here}
    return tensors


def _chosen(path: Path, readings: list[Reading]) -> Reading:
    """The first reading; if others lie elsewhere in the file, says so."""
    places = list(dict.fromkeys(reading.place for reading in readings))
    if len(places) > 1:
        say(f"{path} holds weights under {' and under '.join(places)}; those under {places[0]} are read.")
    return _plain(readings[0])


def _plain(reading: Reading) -> Reading:
    for name, value in reading.tensors.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise ValueError(f"its tensor {name} is sparse, quantized, complex or without values")
    return reading


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and bytes: equal weights, equal hash."""
    content = sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return content.hexdigest()
