"""The recipes that come with the package: which verb runs each, and what the comment at its head says."""

import re
from pathlib import Path
from typing import NamedTuple

from dualoptim_diffusion.core.recipes import find_recipe, recipe_folder

SECTIONS = {
    "method": "forget",
    "classifier": "train-classifier",
    "training": "pretrain",
}  # the first found tells

ENTRY = re.compile(r"(Hardware|Memory|Expected|Reached|Command)[^:]*: (.+)")


class Head(NamedTuple):
    """The comment at the head of a recipe.

    Attributes:
        description: what it is, in the first sentences.
        entries: what the lines below say of hardware and time, memory, expected or reached figures, and the command.
    """

    description: str
    entries: dict[str, str]


def packaged(verb: str) -> list[Path]:
    """The packaged recipes that a verb runs, by name."""
    return [path for path in sorted(recipe_folder().glob("*.yaml")) if verb_of(path) == verb]


def verb_of(path: Path) -> str | None:
    """The verb that runs a recipe: forget, pretrain or train-classifier; None for a file that is no recipe.

    Only the names of sections are read, which takes a millisecond for all packaged recipes.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if base := re.search(r"^base: *(\S+)", text, re.MULTILINE):
            text += find_recipe(base[1], path).read_text(encoding="utf-8")
    except (OSError, ValueError):  # an InputError among them
        return None
    sections = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    return next((verb for section, verb in SECTIONS.items() if section in sections), None)


def read_head(path: Path) -> Head:
    """What the comment at the head of a recipe says."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    named = {i: found for i, line in enumerate(lines) if (found := ENTRY.match(line))}
    return Head(" ".join(lines[: min(named, default=None)]), {found[1]: found[2] for found in named.values()})
