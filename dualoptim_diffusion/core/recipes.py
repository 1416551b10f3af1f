"""Recipe files: one YAML = one whole experiment. Found by path or packaged name, overridden, checked, hashed.

An unknown key is an error that names the nearest one; `section.key=value` overrides a value. No torch here.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.errors import InputError, nearest
from dualoptim_diffusion.core.hashes import json_sha256
from dualoptim_diffusion.core.places import locate, without_places
from dualoptim_diffusion.core.plain_yaml import parse_yaml, read_yaml_file
from dualoptim_diffusion.core.sections import complaint, is_text
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe

Recipe = TypeVar("Recipe", ForgetRecipe, PretrainRecipe, ClassifierRecipe)
Parsed = TypeVar("Parsed", bound=BaseModel)

MAX_SEED = 2**63 - 1
MAX_SEEDS = 1_000_000  # of one class
# Keys that came later, with their defaults: left out of the hash there, so that what was made before is found again.
ADDED: dict[str, dict[str, Any]] = {
    "data": {"channels": None, "background": "white"}, "model": {"family": None}, "method": {"negative_guidance": 0.0},
}  # fmt: skip

# Which keys change nothing about results and so stay out of the hash.
UNHASHED = {"run": {"device", "gradient_checkpointing", "log_cosine", "checkpoint_every"}}


def recipe_folder() -> Path:
    """Where the recipes lie: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).parent.parent
    return next((f for f in (package / "configs", package.parent / "configs") if f.is_dir()), package / "configs")


def find_recipe(name: str, beside: Path | None = None) -> Path:
    """The file of a recipe given by path, by a name beside another recipe, or by a packaged name.

    Raises:
        InputError: if there is none; the nearest packaged names are listed.
    """
    packaged = recipe_folder()
    stem = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    candidates = [beside.parent / stem if beside else Path(name), packaged / stem]
    for candidate in candidates:
        if candidate.is_file() and not (beside and candidate.resolve() == beside.resolve()):
            return candidate
    known = [path.stem for path in packaged.glob("*.yaml")]
    raise InputError(f"There is no recipe {name!r}: {nearest(Path(stem).stem, known)}")


def load_recipe(kind: type[Recipe], name: str, overrides: Sequence[str] = (), beside: Path | None = None) -> Recipe:
    """Reads, overrides and checks a recipe.

    Args:
        kind: the sections expected.
        name: a path, or the name of a packaged recipe.
        overrides: `section.key=value` each.
        beside: another recipe's file, whose folder is searched too.

    Raises:
        InputError: one sentence with the key, its value and what was expected.
    """
    path = find_recipe(name, beside)
    return parse_recipe(kind, _read(path), overrides, f"Recipe {path}", path)


def parse_recipe(
    kind: type[Parsed], values: dict[str, Any], overrides: Sequence[str], title: str, path: Path | None = None
) -> Parsed:
    """Sections as plain data, overridden and checked.

    Args:
        title: begins the sentence about what is wrong.
        path: of the recipe; words in overrides are looked up beside it, paths in the working directory.

    Raises:
        InputError: as `load_recipe`.
    """
    for override in overrides:
        _apply(kind, values, override)
    locate(values, Path.cwd(), lambda word: _find_word(word, path), {o.partition("=")[0] for o in overrides})
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{title}: {complaint(kind, error)}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of sections as plain data.

    Raises:
        InputError: if it is anything else.
    """
    try:
        values = read_yaml_file(path)
    except ValueError as error:
        raise InputError(f"Recipe {path} is not YAML: {error}.") from None
    if not isinstance(values, dict) or not all(isinstance(section, dict | str) for section in values.values()):
        raise InputError(f"Recipe {path} must hold sections such as 'method:' with keys below them.")
    return values


def _read(path: Path) -> dict[str, Any]:
    values = _read_located(path)
    if (base := values.pop("base", None)) is None:
        return values
    below = _read_located(find_recipe(str(base), path))
    if "base" in below:
        raise InputError(f"Recipe {path} has base {base!r}, which has a base itself; one level is allowed.")
    return _merge(below, values)


def _read_located(path: Path) -> dict[str, Any]:
    """A YAML file of sections whose words and paths mean what they mean beside it."""
    values = read_yaml(path)
    locate(values, path.resolve().parent, lambda word: _find_word(word, path))
    return values


def _find_word(word: str, path: Path | None) -> Path | None:
    try:
        return find_recipe(word, path)
    except InputError:
        return None


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {key for key in below.keys() & above.keys() if isinstance(below[key], dict) and isinstance(above[key], dict)}
    return below | dict(above) | {key: _merge(below[key], above[key]) for key in both}


def _apply(kind: type[BaseModel], values: dict[str, Any], override: str) -> None:
    keys, equals, text = override.partition("=")
    *sections, key = keys.split(".")
    if not equals or not sections or not key:
        raise InputError(f"Override {override!r} is not of the form section.key=value, such as method.forget_lr=1e-4.")
    place = values
    for section in sections:
        if not isinstance(place.get(section), dict):
            place[section] = {}
        place = place[section]
    if is_text(kind, keys) and not re.fullmatch(r"""null|~|(["']).*\1""", text):
        place[key] = text  # as it was typed, whatever YAML would take it for
        return
    try:
        place[key] = parse_yaml(text)
    except ValueError as error:
        raise InputError(f"The value {text!r} of {keys} cannot be read: {error}.") from None


def resolve_keys(recipe: ForgetRecipe, reads: frozenset[str], alternates: bool) -> tuple[dict[str, Any], list[str]]:
    """Drops keys the method ignores; returns the recipe as plain data, and those of the dropped keys the user set.

    Args:
        reads: keys of `method`, and dotted keys of other sections, that the chosen method reads.
        alternates: whether it steps forget and retain in turn rather than in one step.

    Raises:
        InputError: if `optimizers.mode=shared` meets a forget rate or schedule that differs from the retain one.
    """
    method, shared = recipe.method, recipe.optimizers.mode == "shared"
    forget_only = {"forget_lr", "forget_schedule", "optimizers.forget", "optimizers.forget_state"}
    if alternates and shared:
        for forget, retain in (("forget_lr", "retain_lr"), ("forget_schedule", "retain_schedule")):
            ours, common = getattr(method, forget), getattr(method, retain)
            if forget in method.model_fields_set and ours != common:
                raise InputError(
                    f"optimizers.mode=shared steps both phases by method.{retain}={common}, but method.{forget} is "
                    f"{ours}; remove it or set it to the same."
                )
    if alternates:
        reads = reads - {"retain_weight"} - (forget_only if shared else set())
    elif "update" in reads:  # one joint step with one optimizer
        weight = {"forget_weight", "forget_weight_schedule"}
        reads = reads - forget_only - weight - {"forget_steps", "retain_steps", "optimizers.mode"}
    if (
        recipe.optimizers.retain_state == "8bit" and "optimizers.retain" in reads
    ):  # of all weights, so it needs no method that masks the retain phase
        reads = reads | {"optimizers.retain_state"}
    values = recipe.model_dump(mode="json")
    dropped = []
    for section, fields in (("method", method), ("optimizers", recipe.optimizers)):
        for key in list(values[section]):
            if key != "name" and (key if section == "method" else f"{section}.{key}") not in reads:
                del values[section][key]
                if key in fields.model_fields_set and not (shared and _is_shared(fields, key)):
                    dropped.append(f"{section}.{key}")
    return values, dropped


def _is_shared(fields: BaseModel, key: str) -> bool:
    """Whether a key of the forget phase says what its counterpart says for both."""
    counterpart = key.replace("forget", "retain", 1)
    return key != counterpart and getattr(fields, key) == getattr(fields, counterpart, None)


def recipe_sha256(values: Mapping[str, Any]) -> str:
    """Hash of a resolved recipe, without what cannot change results, and wherever its files lie."""
    return json_sha256(_hashed(without_places(values)))


def has_sha256(values: Mapping[str, Any], sha256: str) -> bool:
    """Whether a recipe has this hash; before provenance.json held that of the images, it counted paths too."""
    return sha256 in (recipe_sha256(values), json_sha256(_hashed(values)))


def _hashed(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe acts on results."""
    return {
        section: {key: value for key, value in keys.items() if not _is_left_out(section, key, value)}
        for section, keys in values.items()
        if isinstance(keys, Mapping)
    }


def _is_left_out(section: str, key: str, value: Any) -> bool:
    added = ADDED.get(section, {})
    return key in UNHASHED.get(section, ()) or (key in added and value == added[key])


def parse_seeds(text: str) -> list[int]:
    """'0-4,7' -> [0, 1, 2, 3, 4, 7].

    Raises:
        InputError: if it is not a list of numbers and ranges, runs backwards, names a seed twice or too many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()) or part.strip().endswith("-"):
            raise InputError(f"Seeds {text!r} are not of the form 0-499 or 0-9,20.")
        if max(len(first), len(last)) > len(str(MAX_SEED)) or int(last or first) > MAX_SEED:
            raise InputError(f"Seeds {text!r} go beyond the largest seed, {MAX_SEED}.")
        if last and int(last) < int(first):
            raise InputError(f"Seeds {text!r} run backwards in {part.strip()!r}; write the smaller first.")
        numbers = range(int(first), int(last or first) + 1)
        if numbers.stop - numbers.start + len(seeds) > MAX_SEEDS:
            raise InputError(f"Seeds {text!r} are too many; name at most {MAX_SEEDS}.")
        seeds += numbers
    if len(set(seeds)) != len(seeds):
        raise InputError(f"Seeds {text!r} name a seed twice.")
    return seeds
