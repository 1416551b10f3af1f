"""`dualoptim import`."""

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


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A published checkpoint file.")],
    out: Annotated[Path, typer.Option(help="Where to write the pipeline folder.", show_default=False)],
    weights: Annotated[
        str, typer.Option(metavar="raw|ema", help="Which; the published forgetting runs start from the raw ones.")
    ] = "raw",
    image_size: Annotated[int, typer.Option(min=1, help="Height and width of a U-Net's images in pixels.")] = 32,
    num_heads: Annotated[
        int | None, typer.Option(min=1, help="Heads of a DiT's attention [as in DiT-S, B, L and XL].")
    ] = None,
    vae: Annotated[
        str | None, typer.Option(help="Autoencoder of a DiT's latents: a folder or hub id.", show_default=False)
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Names in order, cifar10 or imagenet [CIFAR-10's where it has that form]."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint of SA, SalUn, SFRon, DualOptim or DiT into a pipeline folder; nothing in it is executed."""
    refuse_existing(out, overwrite, "model_index.json")
    starting(f"Importing {checkpoint}")
    from dualoptim_diffusion.runs.import_ import import_checkpoint

    result(import_checkpoint(checkpoint, out, weights, image_size, class_names, num_heads, vae), as_json)
