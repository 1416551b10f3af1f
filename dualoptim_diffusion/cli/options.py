"""What the commands share: the application, their options, and how they print. No torch here."""

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from dualoptim_diffusion.cli.complete import class_names, model_folders, recipe_names, run_folders
from dualoptim_diffusion.cli.help import Verb, Verbose, Verbs
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import printable_lines, say
from dualoptim_diffusion.core.threads import choose_wait_policy

FORGETTING, LOOKING, MODELS, LISTS = "Forget", "Look at the result", "Models", "Lists"  # the tasks that help lists

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"color": False} if os.environ.get("NO_COLOR") else {},
)


def verb(task: str, *examples: str, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a function a verb; the task groups it in help, and the examples end its own."""
    return app.command(name, cls=Verb, rich_help_panel=task, epilog="\n".join(examples))


def _version(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:  # that is: unless a shell asks what may follow
        try:
            typer.echo(f"dualoptim {version('dualoptim-diffusion')}")
        except PackageNotFoundError:
            raise InputError("The version is unknown, for the package is not installed; install it.") from None
        raise typer.Exit


@app.callback()
def dualoptim(
    verbose: Verbose = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Name a class, get back a diffusers pipeline that can no longer draw it, and a report that shows it."""


def recipe_argument(kind: str) -> Any:
    """The recipe that a verb reads, of the kind that completion offers."""
    help_text = "A recipe file, or the name of a packaged one."
    return typer.Argument(metavar="RECIPE", help=help_text, autocompletion=recipe_names(kind))


RecipeArgument = Annotated[str, recipe_argument("forget")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="SECTION.KEY=VALUE", help="Overrides, such as method.forget_lr=3e-4.")
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        metavar="NAME",
        help="A class to forget, by name or id; repeat for several.",
        autocompletion=class_names,
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", autocompletion=run_folders)]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A run folder or a pipeline folder.", autocompletion=model_folders)
]
Places = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION.KEY=VALUE", help="Where things lie now, such as data.path=FOLDER."),
]
InceptionWeights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="torch-fidelity's Inception weights, for FID without a network.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON on stdout, and all else on stderr.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run: counts, memory, time.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
StopAfter = Annotated[
    int | None, typer.Option(min=1, help="Save and stop after N steps, as a signal would (exit code 75).", metavar="N")
]


def starting(what: str) -> None:
    """Says to a terminal at once what is done, for torch takes seconds to load, and chooses how its threads wait."""
    if sys.stderr.isatty():
        say(f"{what} ...")
    choose_wait_policy()


def inception(weights: Path | None) -> list[str]:
    """Overrides that measure on Inception with weights from a file."""
    if weights is None:
        return []
    return ["evaluation.features=inception", f"evaluation.features_weights={weights.resolve()}"]


def planned(plan: dict[str, Any], as_json: bool) -> None:
    """Prints what a dry run found."""
    from dualoptim_diffusion.runs.dry_run import readable

    result(plan if as_json else readable(plan), as_json)


def refuse_existing(out: Path | None, overwrite: bool, marker: str | None = None) -> None:
    """Only a file replaces a file, and only a folder that holds `marker` the like of it; nothing lies below a file."""
    if out is None:
        return
    if above := next((parent for parent in out.parents if parent.is_file()), None):
        raise InputError(f"{above} is a file, so {out} cannot lie below it; choose another --out.")
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} exists; use --overwrite to replace it, or another --out.")
    if out.is_dir() != (marker is not None) or (marker is not None and not (out / marker).is_file()):
        raise InputError(f"{out} exists and is not what this command writes; choose another --out.")


def result(value: Any, as_json: bool) -> None:
    """Results go to stdout: JSON when asked for, text as it is, anything else as readable YAML."""
    if as_json:
        typer.echo(json.dumps(value, indent=1))
    elif isinstance(value, str):
        typer.echo(printable_lines(value))
    else:
        import yaml

        typer.echo(printable_lines(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip()))
