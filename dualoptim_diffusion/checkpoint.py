"""Run state on disk: written beside, then renamed, so a folder is either the old state or the new one."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualoptim_diffusion.errors import InputError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; it takes the place of `path` when the block ends well.

    Raises:
        InputError: if a file would take the place of a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        for written in [beside, *beside.rglob("*")] if beside.is_dir() else [beside]:
            _fsync(written)
        if path.is_dir() and not beside.is_dir():
            raise InputError(f"{path} is a folder; name a file.")
        if path.is_dir():  # a folder cannot be replaced in one call: the old one is moved away, then deleted
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, old)
            os.replace(beside, path)
            shutil.rmtree(old)
        else:
            os.replace(beside, path)
        _fsync(path.parent)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Writes readable JSON in one piece."""
    with atomic_path(path) as beside:
        beside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def pack(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """JSON form of nested dicts and lists; tensors move to `tensors` under their path. Keys may be int or str."""
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(tree, Mapping):
        return {"map": [[key, pack(value, tensors, f"{path}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [pack(value, tensors, f"{path}/{i}") for i, value in enumerate(tree)]}
    return {"value": tree}


def unpack(packed: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given."""
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "map":
        return {key: unpack(value, tensors) for key, value in content}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(unpack(value, tensors) for value in content)
    return content


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], identity: str) -> None:
    """Writes `folder/step_N` (state.json, state.safetensors), then points `folder/latest` at it and drops older ones.

    Args:
        step: finished outer steps.
        state: nested dicts and lists of tensors and plain values.
        identity: hash of the recipe and inputs the state belongs to.
    """
    tensors: dict[str, Tensor] = {}
    packed = pack(state, tensors)
    with atomic_path(folder / f"step_{step}") as beside:
        beside.mkdir()
        save_file(tensors, beside / "state.safetensors")
        text = json.dumps({"step": step, "identity": identity, "state": packed})
        (beside / "state.json").write_text(text, encoding="utf-8")
    with atomic_path(folder / "latest") as beside:
        beside.write_text(f"step_{step}\n", encoding="utf-8")
    for other in folder.glob("step_*"):
        if other.name != f"step_{step}":
            shutil.rmtree(other)


def load_checkpoint(folder: Path, identity: str) -> tuple[int, Any] | None:
    """(finished outer steps, state) of the latest checkpoint, or None where there is none.

    Raises:
        InputError: if it belongs to another recipe, model or mask.
    """
    if not (folder / "latest").is_file():
        return None
    latest = folder / Path((folder / "latest").read_text(encoding="utf-8").strip()).name
    try:
        content = json.loads((latest / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(latest / "state.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"The checkpoint {latest} is damaged ({error}); use --overwrite to start anew.") from None
    if content["identity"] != identity:
        raise InputError(f"The checkpoint {latest} is of another recipe or base model; use --overwrite.")
    return content["step"], unpack(content["state"], tensors)
