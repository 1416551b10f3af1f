"""JSON of files, checked before anything is computed with it; the hash of what JSON can hold."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from dualoptim_diffusion.files.atomic import atomic_path


class Part(BaseModel):
    """A mapping in a file: a number is no string, and keys that are not named may hold anything."""

    model_config = ConfigDict(strict=True, extra="allow")


def read_json(path: Path) -> Any:
    """Plain data of a file, whose numbers are finite and whose texts can be written again.

    Raises:
        OSError: if there is none.
        ValueError: if it is anything else.
    """
    return from_json(path.read_bytes(), allow_inf_nan=False)


def complaint(error: ValidationError) -> str:
    """The first thing wrong: where, what is there, what was expected."""
    first = error.errors(include_url=False)[0]
    place, found = ".".join(map(str, first["loc"])), repr(first["input"])
    if first["type"] == "missing":
        return f"{place} is missing"
    if first["type"] in ("model_type", "dict_type"):
        expected = "a mapping"
    else:
        expected = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("should be ")
    return f"{place or 'it'} is {found if len(found) <= 40 else f'{found[:40]}...'}, expected {expected}"


def read_checked(path: Path, kind: type[BaseModel]) -> dict[str, Any]:
    """The content of a JSON file, as it stands there.

    Raises:
        OSError: if there is none.
        ValueError: in one line, naming the first value that is not of this kind.
    """
    content: dict[str, Any] = read_json(path)
    try:
        kind.model_validate(content)
    except ValidationError as error:
        raise ValueError(complaint(error)) from None
    return content


def write_json(path: Path, value: object) -> None:
    """Writes readable JSON in one piece."""
    with atomic_path(path) as beside:
        beside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
