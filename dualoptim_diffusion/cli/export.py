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

FORMATS = "diffusers: a folder for plain diffusers; published: a torch file as the research code saves it."


@verb(MODELS, "dualoptim export runs/demo --format diffusers --out stock")
def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Where to write the folder or file.", show_default=False)],
    format_name: Annotated[str, typer.Option("--format", metavar="diffusers|published", help=FORMATS)] = "diffusers",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a model that runs without this package.

    For diffusers, with a model card, or for the research code. A U-Net's outputs stay equal; diffusers gives a DiT
    slightly other outputs than the research code does.
    """
    refuse_existing(out, overwrite, None if format_name == "published" else "model_index.json")
    starting(f"Exporting {model}")
    from dualoptim_diffusion.runs.export import export_model

    result(export_model(model, out, format_name), as_json)
