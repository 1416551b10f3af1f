"""What the sections of a recipe may hold, and the sentence about what they do not."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dualoptim_diffusion.core.errors import nearest

LONGEST_SHOWN = 200  # characters of a value in a sentence


def is_text(kind: type[BaseModel], keys: str) -> bool:
    """Whether a dotted key holds text, or nothing, in every kind of its section that knows it."""
    known, annotations = [kind], []
    for part in keys.split("."):
        annotations = [section.model_fields[part].annotation for section in known if part in section.model_fields]
        known = [section for annotation in annotations for section in _sections(annotation)]
    return bool(annotations) and all({*(get_args(found) or (found,))} <= {str, type(None)} for found in annotations)


def complaint(kind: type[BaseModel], error: ValidationError) -> str:
    """What is wrong with a recipe, its key and value first."""
    first = error.errors(include_url=False)[0]
    path, siblings = _locate(kind, first["loc"])
    key, value = ".".join(path), first["input"]
    if first["type"] == "extra_forbidden":
        return f"there is no key {key}; {nearest(path[-1], siblings)}"
    if first["type"] == "missing":
        return f"the key {key} is missing."
    if first["type"] == "model_type":
        return f"{key} is {_shown(value)}, expected keys below it."
    expected = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("should be ")
    return f"{key} is {_shown(value)}, expected {expected}." if key else f"{expected}."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _locate(kind: type[BaseModel], loc: Sequence[int | str]) -> tuple[list[str], list[str]]:
    """Where in a recipe an error is, and the keys known beside it; kinds of sections are named in `loc`, not there."""
    path: list[str] = []
    siblings: list[str] = []
    known, kinds_follow = [kind], False
    for part in map(str, loc):
        if kinds_follow:
            fields = [(section, field) for section in known for field in section.model_fields.values()]
            known, kinds_follow = [section for section, field in fields if get_args(field.annotation) == (part,)], False
            continue
        path.append(part)
        siblings = sorted({key for section in known for key in section.model_fields})
        found = [section.model_fields[part].annotation for section in known if part in section.model_fields]
        known = [section for annotation in found for section in _sections(annotation)]
        kinds_follow = len(known) > 1
    return path, siblings


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a key may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]
