"""`dualoptim recipes`: the packaged recipes, as their heads and their keys describe them. No torch here."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from dualoptim_diffusion.core.catalogue import SECTIONS, Head, packaged, read_head
from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe

FAMILIES = {"ddpm": "U-Net", "dit": "DiT"}


class RecipeFacts(TypedDict):
    """What is told of a recipe.

    Attributes:
        name: as commands take it.
        verb: that runs it: forget, pretrain or train-classifier.
        data: the value of data.name.
        model: the kind of network, and where a forgetting recipe takes it from.
        parameters: of that network; None where the head does not say.
        time: seconds and the hardware that they were measured on, or that they were not; None where nothing is said.
        seconds: the first figure of these; None without one.
    """

    name: str
    verb: str
    description: str
    data: str
    model: str
    parameters: int | None
    time: str | None
    seconds: int | None
    command: str


def list_recipes() -> list[RecipeFacts]:
    """The packaged recipes, those of forgetting first."""
    return [_facts(path, verb) for verb in SECTIONS.values() for path in packaged(verb)]


def by_model(recipes: Sequence[RecipeFacts]) -> dict[str, list[tuple[str, str]]]:
    """Names and sentences under a heading for each verb, data set and model."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for recipe in recipes:
        size = "" if recipe["parameters"] is None else f", {recipe['parameters'] / 1e6:.4g} M parameters"
        heading = f"dualoptim {recipe['verb']}: {recipe['data']}, {recipe['model']}{size}"
        seconds = "not measured yet" if recipe["seconds"] is None else f"{recipe['seconds']} s"
        hardware = re.split("[:;]", recipe["time"] or "")[0]
        time = f" Time: {seconds} ({hardware})." if hardware else ""
        groups.setdefault(heading, []).append((recipe["name"], recipe["description"] + time))
    return groups


def _facts(path: Path, verb: str) -> RecipeFacts:
    head = read_head(path)
    data, model = _data_and_model(path, verb)
    time = head.entries.get("Hardware")
    return {
        "name": path.stem,
        "verb": verb,
        "description": head.description,
        "data": data,
        "model": model,
        "parameters": _parameters(head),
        "time": time,
        "seconds": int(found[1].replace(",", "")) if (found := re.search(r"([\d,]+) s\b", time or "")) else None,
        "command": head.entries.get("Command", f"dualoptim {verb} {path.stem}"),
    }


def _data_and_model(path: Path, verb: str) -> tuple[str, str]:
    if verb == "forget":
        recipe = load_recipe(ForgetRecipe, str(path))
        source = recipe.model.path or Path(str(recipe.model.pretrain)).stem
        return recipe.data.name, f"{FAMILIES[str(recipe.model.family)]} of {source}"
    if verb == "pretrain":
        pretraining = load_recipe(PretrainRecipe, str(path))
        return pretraining.data.name, FAMILIES[pretraining.model.family]
    classifier = load_recipe(ClassifierRecipe, str(path))
    return classifier.data.name, classifier.classifier.name


def _parameters(head: Head) -> int | None:
    found = re.search(r"([\d.]+) M parameters", " ".join([head.description, *head.entries.values()]))
    return round(float(found[1]) * 1e6) if found else None
