"""`dualoptim report`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.complete import run_folders
from dualoptim_diffusion.cli.options import (
    LOOKING,
    Json,
    result,
    verb,
)


@verb(LOOKING, "dualoptim report runs/demo runs/mine --out compared")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.", autocompletion=run_folders)],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files [default: the one RUN, or report for several].")
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="A model retrained without the class; gaps to it are shown.",
            autocompletion=run_folders,
        ),
    ] = None,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="List figures of different protocols, with a warning.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put one or more runs into one table.

    Prints it, and writes it as HTML page, Markdown, CSV and JSON.
    """
    from dualoptim_diffusion.report import report as write

    written = write(runs, out, control, mixed)
    result(written.json if as_json else f"{written.text}\n\n{written.page}", as_json)
