"""Run state on disk: written beside, then renamed, so a folder is either the old state or the new one."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.weight_files import file_sha256

FILES = ("state.safetensors", "state.json")  # of a checkpoint, beside its manifest
KEPT = 2  # checkpoints: should the newest be damaged, the one before goes on


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; it takes the place of `path` when the block ends well.

    Raises:
        InputError: if a file would take the place of a folder, or tensors cannot be written.
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
    except SafetensorError as error:  # it wraps what the system said, such as a full disk
        raise InputError(f"{path} cannot be written: {error}. What was there before is unchanged.") from None
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


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
        step: finished outer steps.
        state: as it was given to `save_checkpoint`.
        skipped: newer checkpoints that did not verify, each with the reason.
    """

    step: int
    state: Any
    skipped: list[str]


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    """Writes `folder/step_N`, then points `folder/latest` at it, then drops all but the newest two.

    A checkpoint is state.safetensors, state.json and, with the hash of either, manifest.json; it is written beside and
    renamed, so it is whole or not there.

    Args:
        step: finished outer steps.
        state: nested dicts and lists of tensors and plain values.
        identity: by name, the hash of each thing the state belongs to: recipe, base model, mask.
    """
    tensors: dict[str, Tensor] = {}
    packed = pack(state, tensors)
    with atomic_path(folder / f"step_{step}") as beside:
        beside.mkdir()
        save_file(tensors, beside / "state.safetensors")
        (beside / "state.json").write_text(json.dumps(packed), encoding="utf-8")
        manifest = {
            "step": step,
            "identity": dict(identity),
            "versions": {name: version(name) for name in ("torch", "safetensors")},
            "files": {name: file_sha256(beside / name) for name in FILES},
        }
        (beside / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    with atomic_path(folder / "latest") as beside:
        beside.write_text(f"step_{step}\n", encoding="utf-8")
    for _, old in _steps(folder)[KEPT:]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, identity: Mapping[str, str]) -> Restored | None:
    """The newest checkpoint whose files have the hashes of its manifest, or None where there is none.

    Raises:
        InputError: if it belongs to another recipe, model or mask, or none of several verifies.
    """
    skipped: list[str] = []
    for step, path in _steps(folder):
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
            for name in FILES:
                if file_sha256(path / name) != manifest["files"][name]:
                    raise ValueError(f"{name} is not what was written")
            packed = json.loads((path / "state.json").read_text(encoding="utf-8"))
            tensors, made_for = load_file(path / "state.safetensors"), dict(manifest["identity"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            skipped.append(f"{path} ({error})")
            continue
        if other := [name for name in {**made_for, **identity} if made_for.get(name) != identity.get(name)]:
            raise InputError(
                f"The checkpoint {path} was made with another {' and another '.join(other)}; use --overwrite to start "
                "anew, or give what it was made with."
            )
        return Restored(step, unpack(packed, tensors), skipped)
    if skipped:
        raise InputError(f"No checkpoint verifies: {'; '.join(skipped)}. Use --overwrite to start anew.")
    return None


def visible(folder: Path) -> list[Path]:
    """Its files, but for those that are being written or that killed processes were writing."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def clear_leftovers(folder: Path) -> None:
    """Deletes what killed processes were writing anywhere in a folder; nobody else may be writing there."""
    for path in [path for ending in ("part", "old") for path in folder.rglob(f".*.[0-9]*.{ending}")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # it may have lain in one of these folders


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints by finished steps, newest first."""
    numbered = [(path.name.removeprefix("step_"), path) for path in folder.glob("step_*")]
    return sorted(((int(number), path) for number, path in numbered if number.isdecimal()), reverse=True)
