"""`dualoptim grid`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.complete import class_names
from dualoptim_diffusion.cli.options import (
    LOOKING,
    Json,
    Overwrite,
    Places,
    RunArgument,
    refuse_existing,
    result,
    starting,
    verb,
)
from dualoptim_diffusion.core.errors import InputError


@verb(LOOKING, "dualoptim grid runs/demo --class three --columns 16 --out three.png")
def grid(
    run: RunArgument,
    overrides: Places = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="A class to show; repeat for several [up to 12: all].",
            autocompletion=class_names,
        ),
    ] = None,
    others: Annotated[
        int | None, typer.Option(min=0, metavar="K", help="Show the forgotten classes and K others.")
    ] = None,
    contact_sheet: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show one class alone, up to 100 images.", autocompletion=class_names),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, metavar="N", help="Images a class on either side.")] = 8,
    out: Annotated[Path | None, typer.Option(help="PNG file [default: RUN/grid.png or RUN/sheet_NAME.png].")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw images of a run before and after, side by side.

    --contact-sheet draws one class alone.
    """
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
        result({"image": str(written)} if as_json else str(written), as_json)
