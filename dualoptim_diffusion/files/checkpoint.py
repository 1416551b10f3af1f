"""Run state on disk: written beside, then renamed, so a folder is either the old state or the new one."""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.hashes import file_sha256
from dualoptim_diffusion.files.atomic import atomic_path

FILES = ("state.safetensors", "state.json")  # of a checkpoint, beside its manifest
KEEP = 2  # checkpoints: if the newest is damaged, the one before it is used


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
    """The content of a checkpoint.

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
    for _, old in _steps(folder)[KEEP:]:
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
                "again, or give what it was made with."
            )
        return Restored(step, unpack(packed, tensors), skipped)
    if skipped:
        raise InputError(f"No checkpoint verifies: {'; '.join(skipped)}. Use --overwrite to start again.")
    return None


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints by finished steps, newest first."""
    numbered = [(path.name.removeprefix("step_"), path) for path in folder.glob("step_*")]
    return sorted(((int(number), path) for number, path in numbered if number.isdecimal()), reverse=True)
