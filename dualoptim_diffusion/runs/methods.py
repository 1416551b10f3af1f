"""`dualoptim methods`: what the registry, the methods' docstrings and the packaged recipes say of them."""

import inspect
import re
from typing import TypedDict

from dualoptim_diffusion.core.catalogue import packaged
from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.plugins import registered
from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.unlearning.methods import METHODS, Method, find_method


class MethodFacts(TypedDict):
    """What is told of a method.

    Attributes:
        name: the value of method.name.
        forget_step: one line, which begins with None where there is no such step.
        dualoptim: yes where a packaged recipe steps it with two optimizers, possible where one could, else no.
        masks: kinds of masks that packaged recipes give it.
        reads_mask: whether it takes a mask at all.
        paper: authors, venue and year; None for a baseline.
        recipes: packaged ones.
    """

    name: str
    forget_step: str
    dualoptim: str
    masks: list[str]
    reads_mask: bool
    paper: str | None
    recipes: list[str]


def list_methods() -> list[MethodFacts]:
    """The methods, as the registry orders them, and those that other packages register."""
    recipes = {path.stem: load_recipe(ForgetRecipe, str(path)) for path in packaged("forget")}
    others = {name: find_method(name) for name in sorted(registered("methods").keys() - METHODS.keys())}
    return [_facts(name, kind, recipes) for name, kind in (METHODS | others).items()]


def sentence(method: MethodFacts) -> str:
    """What a method is, as text."""
    masks = " or ".join(method["masks"]) or ("possible" if method["reads_mask"] else "none")
    paper = f" Paper: {method['paper']}." if method["paper"] else " A baseline."
    return f"{method['forget_step']} DualOptim: {method['dualoptim']}. Mask: {masks}.{paper}"


def _facts(name: str, kind: type[Method], all_recipes: dict[str, ForgetRecipe]) -> MethodFacts:
    recipes = {stem: recipe for stem, recipe in all_recipes.items() if recipe.method.name == name}
    dual = any(r.optimizers.mode == "dual" and kind.alternates_under(r.method) for r in recipes.values())
    masks = {recipe.method.mask.kind for recipe in recipes.values() if recipe.method.mask and "mask" in kind.reads}
    paper = re.search(r"\(([^()]*\d{4})\)", inspect.getdoc(inspect.getmodule(kind)) or "")
    return {
        "name": name,
        "forget_step": (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "),
        "dualoptim": "yes" if dual else "possible" if "optimizers.mode" in kind.reads else "no",
        "masks": sorted(masks),
        "reads_mask": "mask" in kind.reads,
        "paper": paper[1] if paper else None,
        "recipes": list(recipes),
    }
