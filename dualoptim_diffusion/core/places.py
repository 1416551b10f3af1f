"""Words and paths in recipes: what each names, whatever the working directory. No torch here."""

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

FILES = ("data.path", "data.latents", "classifier.checkpoint", "evaluation.features_weights")  # or a fixed word
MODELS = ("model.path", "model.vae")  # or a hub id
RECIPES = ("model.pretrain", "evaluation.classifier", "evaluation.features")  # or a folder, or a fixed word
KEYS = (*FILES, *MODELS, *RECIPES)
WORDS = ("keep", "each_step", "inception", "dinov2", "classifier")  # which stand for no path, whatever files there are
PLACE = "a path"


def is_place(value: object) -> bool:
    """Whether a located value is a path; any other text is a word."""
    return isinstance(value, str) and Path(value).is_absolute()


def locate(
    values: Mapping[str, Any], folder: Path, find: Callable[[str], Path | None], keys: Collection[str] = KEYS
) -> None:
    """Makes the paths of a recipe absolute, in place; a word that names a recipe becomes the path of that recipe.

    A word is a recipe before it is a file or folder of that name; what holds a separator is a path.

    Args:
        folder: where paths begin.
        find: the recipe of that name, if there is one.
        keys: dotted; the others stay as they are.
    """
    for key in KEYS:
        section, _, name = key.partition(".")
        place = values.get(section)
        if key not in keys or not isinstance(place, dict):
            continue
        value = place.get(name)
        if isinstance(value, str) and value not in ("", *WORDS):
            with suppress(OSError, RuntimeError, ValueError):  # there can be no such path: checking it says so
                place[name] = _located(key, value, folder, find)


def _located(key: str, value: str, folder: Path, find: Callable[[str], Path | None]) -> str:
    path = folder / Path(value).expanduser()
    spelled = any(sign in value for sign in (os.sep, os.altsep) if sign) or value.startswith(("~", "."))
    names_recipe = key in RECIPES and not spelled
    if key == "evaluation.features" and not value.endswith((".yaml", ".yml")):  # it may be timm's name of a network
        names_recipe = False
    if names_recipe and (recipe := find(value)) is not None:
        return str(recipe.resolve())
    is_path = key in FILES or path.exists() or (spelled and key in RECIPES)
    return str(path.resolve()) if is_path else value


def without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a recipe with all paths made equal: what lies there has hashes of its own."""
    return {
        section: {key: PLACE if is_place(value) else value for key, value in keys.items()}
        for section, keys in values.items()
        if isinstance(keys, Mapping)
    }
