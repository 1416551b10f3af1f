"""`dualoptim import`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dualoptim_diffusion.cli.options import (
    MODELS,
    Json,
    Overwrite,
    refuse_existing,
    result,
    starting,
    verb,
)


@verb(
    MODELS,
    "dualoptim import ckpt.pth --out base",
    name="import",
)
def import_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A published checkpoint file.")],
    out: Annotated[Path, typer.Option(help="Where to write the pipeline folder.", show_default=False)],
    weights: Annotated[
        str, typer.Option(metavar="raw|ema", help="Which; the published forgetting runs start from the raw ones.")
    ] = "raw",
    image_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Height and width of a U-Net's images in pixels.")
    ] = 32,
    num_heads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Heads of a DiT's attention [as in DiT-S, B, L and XL].")
    ] = None,
    form: Annotated[
        Literal["dit", "sit", "repa"] | None,
        typer.Option(help="Whose transformer it is, which no tensor tells [repa where it has projectors, else dit]."),
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option(metavar="VAE", help="Autoencoder of a DiT's latents: a folder or hub id.", show_default=False),
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Names in order, cifar10 or imagenet [CIFAR-10's where it has that form]."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a published checkpoint into a pipeline folder.

    It may be one of SA, SalUn, SFRon, DualOptim, DiT, SiT or REPA. Nothing in it is executed.
    """
    refuse_existing(out, overwrite, "model_index.json")
    starting(f"Importing {checkpoint}")
    from dualoptim_diffusion.runs.import_ import import_checkpoint

    result(import_checkpoint(checkpoint, out, weights, image_size, class_names, num_heads, vae, form), as_json)
