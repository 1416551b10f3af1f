"""`dualoptim export`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    MODELS,
    Json,
    ModelArgument,
    Overwrite,
    refuse_existing,
    result,
    starting,
    verb,
)


@verb(MODELS, "dualoptim export runs/demo --format unet2d --out stock")
def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Where to write the folder.", show_default=False)],
    format_name: Annotated[
        str, typer.Option("--format", metavar="unet2d", help="unet2d: a UNet2DModel that plain diffusers loads.")
    ] = "unet2d",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a model that diffusers loads without this package.

    Its outputs stay equal.
    """
    refuse_existing(out, overwrite, "model_index.json")
    starting(f"Exporting {model}")
    from dualoptim_diffusion.runs.porting import export_model

    result(export_model(model, out, format_name), as_json)
