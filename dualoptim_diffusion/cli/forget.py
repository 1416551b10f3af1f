"""`dualoptim forget`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    FORGETTING,
    Classes,
    DryRun,
    InceptionWeights,
    Json,
    Overrides,
    Overwrite,
    RecipeArgument,
    StopAfter,
    class_names,
    inception,
    planned,
    result,
    starting,
    verb,
)
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import say


@verb(
    FORGETTING,
    "dualoptim forget digits_sfron_dual --class three --dry-run",
    "dualoptim forget digits_sfron_dual --class three --class eight method.forget_lr=3e-4 --out runs/mine",
    "dualoptim forget digits_sfron_dual --class three --then eight --then five --out runs/one_by_one",
)
def forget(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    classes: Classes = None,
    then: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A class to forget afterwards; repeat for more.", autocompletion=class_names),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder [default: runs/RECIPE-CLASS].")] = None,
    mask: Annotated[Path | None, typer.Option(help="A mask made by `dualoptim saliency`.")] = None,
    dry_run: DryRun = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Overwrite = False,
    stop_after: StopAfter = None,
    inception_weights: InceptionWeights = None,
    as_json: Json = False,
) -> None:
    """Forget classes of a model, and measure it before and after.

    With one Adam a phase the forget weight cancels except through clipping: method.forget_lr is the real knob. With
    --then each request starts from the model that the one before it left, and every class that was forgotten so far is
    drawn and counted again.
    """
    verb = "Planning to forget" if dry_run else "Forgetting"
    starting(f"{verb} {', '.join(classes or ['the classes'])} as {recipe} says")
    from dualoptim_diffusion.runs.experiment import open_experiment

    if resume and overwrite:
        raise InputError("--resume keeps what is there and --overwrite replaces it; give one of them.")
    words = [*(overrides or ()), *inception(inception_weights)]
    if then:
        if dry_run or mask is not None:
            raise InputError("--dry-run and --mask are of one request; leave out --then.")
        _in_turn(
            recipe, [classes or [], *([name] for name in then)], words, out, resume, overwrite, stop_after, as_json
        )
        return
    experiment = open_experiment(recipe, classes or (), words)
    if dry_run:
        experiment.check_states(has_mask=mask is not None)
        from dualoptim_diffusion.runs.dry_run import plan

        planned(plan(experiment), as_json)
        return
    from dualoptim_diffusion.core.classes import file_name
    from dualoptim_diffusion.report import table
    from dualoptim_diffusion.runs import forget as runs_forget

    out = out or Path("runs") / file_name("-".join([experiment.recipe_path.stem, *experiment.forget_names]))
    results = runs_forget.forget(
        experiment, out, mask_path=mask, resume=resume, overwrite=overwrite, stop_after=stop_after
    )
    if experiment.accelerator.is_main_process:
        result(results if as_json else f"{table(results)}\n\n{out / 'report.html'}", as_json)
        if not as_json:
            can_retrain = experiment.retraining_recipe is not None
            say("\nWhat to do next:\n  " + "\n  ".join(next_commands(out, can_retrain)))


def _in_turn(
    recipe: str, requests: list[list[str]], overrides: list[str], out: Path | None, resume: bool, overwrite: bool,
    stop_after: int | None, as_json: bool,
) -> None:  # fmt: skip
    """One request after another."""
    from dualoptim_diffusion.core.classes import file_name
    from dualoptim_diffusion.report.sequence import text
    from dualoptim_diffusion.runs.sequence import forget_in_turn

    names = [Path(recipe).stem, *("-".join(request) for request in requests)]
    out = out or Path("runs") / file_name("-then-".join(names))
    found = forget_in_turn(recipe, requests, overrides, out, resume=resume, overwrite=overwrite, stop_after=stop_after)
    result(found if as_json else f"{text(found)}\n\n{out / 'sequence.md'}", as_json)


def next_commands(run: Path, can_retrain: bool) -> list[str]:
    """Command lines that look at a run, attack it and pass its model on, quoted for a POSIX shell.

    Args:
        can_retrain: whether a recipe says how to train the controls of an audit.
    """
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    name = str(run) if not str(run).startswith("-") else f"./{run}"  # which is no option
    audit = ["dualoptim", "audit", name, *(["--retrain"] if can_retrain else [])]
    away = ["dualoptim", "export", name, "--out", f"{name}-diffusers"]
    return [shlex.join(words) for words in ([opener, f"{name}/report.html"], audit, away)]
