"""`dualoptim grid`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    Overwrite,
    Places,
    RunArgument,
    app,
    refuse_existing,
    starting,
)
from dualoptim_diffusion.core.errors import InputError


@app.command()
def grid(
    run: RunArgument,
    overrides: Places = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A class to show; repeat for several [up to 12: all].")
    ] = None,
    others: Annotated[
        int | None, typer.Option(min=0, metavar="K", help="Show the forgotten classes and K others.")
    ] = None,
    contact_sheet: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show one class alone, up to 100 images.")
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help="Images a class on either side.")] = 8,
    out: Annotated[Path | None, typer.Option(help="PNG file [default: RUN/grid.png or RUN/sheet_NAME.png].")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw the before/after grid of a run for other classes or more columns, or one class's contact sheet."""
    if sum(bool(given) for given in (classes, others is not None, contact_sheet)) > 1:
        raise InputError("--class, --others and --contact-sheet each choose what is shown; give one of them.")
    from dualoptim_diffusion.files.run_folder import grid_files

    for path in () if out is None else grid_files(out)[: 1 if contact_sheet else None]:
        refuse_existing(path, overwrite)
    starting(f"Drawing the images of {run}")
    from dualoptim_diffusion.runs.finished import open_run
    from dualoptim_diffusion.runs.grid import draw_run_grid, draw_run_sheet

    experiment = open_run(run, overrides or ())
    if contact_sheet is not None:
        written = draw_run_sheet(experiment, run, contact_sheet, out)
    else:
        written = draw_run_grid(experiment, run, classes or (), others, columns, out)
    if experiment.accelerator.is_main_process:
        typer.echo(written)
