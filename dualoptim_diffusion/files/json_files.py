"""JSON files: checked before anything is computed with them, written in one piece."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from dualoptim_diffusion.files.atomic import atomic_path, seen


class Part(BaseModel):
    """A mapping in a file: strict types; extra keys allowed."""

    model_config = ConfigDict(strict=True, extra="allow")


def read_json(path: Path) -> Any:
    """Plain data of a file, whose numbers are finite and whose texts can be written again.

    Raises:
        OSError: if there is none.
        ValueError: if it is anything else.
    """
    return from_json(seen(path).read_bytes(), allow_inf_nan=False)


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


def read_checked(path: Path, kind: Any) -> Any:
    """The content of a JSON file as plain data, once it has been found to be of this kind (a model or a TypedDict).

    Raises:
        OSError: if there is none.
        ValueError: in one line, naming the first value that is not of this kind.
    """
    content = read_json(path)
    try:
        TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise ValueError(complaint(error)) from None
    return content


def write_json(path: Path, value: object) -> None:
    """Writes readable JSON in one piece."""
    with atomic_path(path) as beside:
        beside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
