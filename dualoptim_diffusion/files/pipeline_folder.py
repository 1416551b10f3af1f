"""Pipeline folders: what lies in them, and whether it is all there."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dualoptim_diffusion.core.classes import usable_names
from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.files.json_files import read_json
from dualoptim_diffusion.files.run_folder import RunFolder

LIBRARIES = ("diffusers", "dualoptim_diffusion")


@contextmanager
def pipeline_folder(folder: Path) -> Iterator[None]:
    """Whatever reads a pipeline folder in this block, says in one sentence why it cannot.

    Raises:
        InputError: if it is none, or damaged, or has parts of libraries that are not known.
    """
    if not (folder / "model_index.json").is_file():
        raise InputError(f"There is no pipeline folder {str(folder)!r} (it would hold model_index.json).")
    try:
        check_parts(folder)
        yield
    except InputError:
        raise
    except (OSError, ValueError, LookupError, AttributeError, RuntimeError, TypeError, ArithmeticError) as error:
        raise InputError(
            f"{folder} is not a pipeline folder of a conditional DDPM or DiT ({reason(error)}); restore it, or "
            "name another."
        ) from None


def check_parts(source: Path) -> None:
    """Checks that a pipeline folder names no parts but those of known libraries, for a module runs when it is imported.

    Raises:
        ValueError: naming the part.
    """
    for part, kind in _index(source).items():
        if part == "forgotten" or not isinstance(kind, list) or not kind or kind[0] is None:
            continue
        if str(kind[0]).split(".")[0] not in LIBRARIES:
            raise ValueError(f"its part {part!r} is of {kind[0]!r}, expected {' or '.join(LIBRARIES)}")


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a part of a pipeline folder.

    Raises:
        OSError: if there is no such file.
        ValueError: if it holds none.
    """
    try:
        settings = read_json(path)
    except ValueError as error:
        raise ValueError(f"its {path.name} is damaged: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"its {path.name} holds no mapping")
    return settings


def check_scheduler(folder: Path) -> None:
    """Checks that a pipeline folder's scheduler is there and is what the index says; diffusers would need it.

    Raises:
        OSError: if it is missing.
        ValueError: if it is of another class.
    """
    named = class_of(folder, "scheduler")
    if (found := read_settings(folder / "scheduler" / "scheduler_config.json").get("_class_name", named)) != named:
        raise ValueError(f"its scheduler is called {named} in model_index.json, but is a {found}")


def model_folder(source: Path) -> Path:
    """The pipeline folder of a run folder, or the folder itself."""
    model = RunFolder(source).model
    return model if model.is_dir() else source


def is_hub_id(source: str | Path) -> bool:
    """Whether it is the id of a model on the hub, such as facebook/DiT-XL-2-256 or that @revision, and no folder."""
    return not Path(source).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", str(source)) is not None


def forgotten_names(source: Path) -> list[str]:
    """Classes that the model in a run or pipeline folder was made to forget, as its model_index.json says."""
    names = _index(source).get("forgotten")
    return [str(name) for name in names] if isinstance(names, list) else []


def class_names(source: Path) -> dict[int, str]:
    """Names by id, as the model_index.json of a run or pipeline folder says; empty where it names none."""
    return usable_names({int(i): name for i, name in (_index(source).get("id2label") or {}).items()})


def class_of(source: Path, part: str) -> str | None:
    """Name of the class of a part of a pipeline folder, such as ConditionalUNet; none where it has no such part."""
    kind = _index(source).get(part)
    return str(kind[-1]) if isinstance(kind, list) and kind and kind[0] is not None else None


def is_dit(source: Path) -> bool:
    """Whether the pipeline in a run or pipeline folder is one of a transformer."""
    return "transformer" in _index(source)


def _index(source: Path) -> dict[str, Any]:
    try:
        index = read_json(model_folder(source) / "model_index.json")
    except (OSError, ValueError):  # no pipeline folder: loading it says so
        return {}
    return index if isinstance(index, dict) else {}
