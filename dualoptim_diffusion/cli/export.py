"""`dualoptim export`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    Json,
    Overwrite,
    app,
    refuse_existing,
    result,
    starting,
)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder or a pipeline folder.")],
    out: Annotated[Path, typer.Option(help="Where to write the folder.", show_default=False)],
    format_name: Annotated[
        str, typer.Option("--format", metavar="unet2d", help="unet2d: a UNet2DModel that plain diffusers loads.")
    ] = "unet2d",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a model for diffusers without this package; its outputs stay equal."""
    refuse_existing(out, overwrite, "model_index.json")
    starting(f"Exporting {model}")
    from dualoptim_diffusion.runs.porting import export_model

    result(export_model(model, out, format_name), as_json)
