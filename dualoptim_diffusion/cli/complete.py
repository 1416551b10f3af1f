"""What a shell offers behind TAB: recipes, run folders and classes. It says nothing, never fails, loads no torch."""

import glob
import os
import re
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from itertools import islice
from pathlib import Path

import typer

from dualoptim_diffusion.core.catalogue import packaged, verb_of

MOST_PATHS = 500  # that are looked at
SOURCES = ("recipe", "run", "model", "source")  # arguments that say what has the classes

Offer = Callable[[str], list[str]]


def recipe_names(verb: str) -> Offer:
    """Offers packaged recipes of a verb, and its YAML files near the working directory."""

    def offer(incomplete: str) -> list[str]:
        files = (path for path in _near(incomplete) if path.endswith((".yaml", ".yml")))
        own = [path for path in files if verb_of(Path(path)) == verb and not _is_run(Path(path).parent)]
        return _typed([path.stem for path in packaged(verb)] + own)

    return offer


def run_folders(incomplete: str) -> list[str]:
    """Offers folders that hold a run."""
    return _typed(path for path in _near(incomplete) if _is_run(Path(path)))


def model_folders(incomplete: str) -> list[str]:
    """Offers folders that hold a run or a pipeline; of a run, not the pipeline in it."""
    found = [path for path in _near(incomplete) if not _is_run(Path(path).parent)]
    return _typed(path for path in found if _is_run(Path(path)) or (Path(path) / "model_index.json").is_file())


def class_sources(incomplete: str) -> list[str]:
    """Offers what `dualoptim classes` takes."""
    return recipe_names("forget")(incomplete) + model_folders(incomplete)


def class_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offers the classes of the recipe or the run that stands on the command line, where no torch is needed to know."""
    from dualoptim_diffusion.runs.classes import known_classes

    given = [str(ctx.params[name]) for name in SOURCES if ctx.params.get(name)]
    words = [
        *given,
        *(ctx.params.get("overrides") or ()),
        *ctx.args,
    ]  # args: all of them where the option ends the line
    try:
        with open(os.devnull, "w") as nothing, redirect_stderr(nothing):
            names = known_classes(words[0], [word for word in words[1:] if "=" in word]) or {}
    except Exception:  # whatever is wrong, the command itself will say
        return []
    return _typed(names.values())


def _near(incomplete: str) -> list[str]:
    """Paths that begin so, in the folder where it ends or one below it."""
    begin = glob.escape(incomplete)
    return list(islice((path for depth in ("*", "*/*") for path in glob.iglob(begin + depth)), MOST_PATHS))


def _is_run(folder: Path) -> bool:
    from dualoptim_diffusion.files.run_folder import RunFolder

    return RunFolder(folder).is_run


def _typed(words: Iterable[str]) -> list[str]:
    """Words as they are typed: bash inserts what it is given as it stands, where zsh and fish add their own quotes."""
    if not os.environ.get("_DUALOPTIM_COMPLETE", "").endswith("bash"):
        return list(words)
    return [re.sub(r"([^\w@%+=:,./~-])", r"\\\1", word) for word in words]
