"""`dualoptim sample`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.complete import class_names
from dualoptim_diffusion.cli.options import (
    LOOKING,
    Json,
    ModelArgument,
    result,
    starting,
    verb,
)


@verb(LOOKING, "dualoptim sample runs/demo --class three --seeds 0-99 --out drawn")
def sample(
    model: ModelArgument,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="A class to draw, by name or id; repeat for several [all].",
            autocompletion=class_names,
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="SEEDS", help="Seeds of each class, such as 0-499.")] = "0-15",
    out: Annotated[Path, typer.Option(help="Folder for shards, manifest and PNG files.")] = Path("samples"),
    scheduler: Annotated[str | None, typer.Option(metavar="NAME", help="ddpm, ddim or dpmsolver++.")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Steps of the scheduler.")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(metavar="S", help="s = w + 1; 1 is the conditional model.")
    ] = None,
    guidance_channels: Annotated[
        int | None, typer.Option(metavar="N", help="Guide the first so many channels [all].")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Images per batch.")] = None,
    png: Annotated[bool, typer.Option(help="Also write one PNG an image.")] = True,
    latents: Annotated[
        bool, typer.Option("--latents", help="Also keep a latent model's latents, for data.name=replay.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Draw images of a model.

    A run folder's recipe gives the scheduler settings that are not named here.
    """
    starting(f"Drawing from {model}")
    from dualoptim_diffusion.runs.sample import sample_model

    named = {
        "scheduler": scheduler,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_channels": guidance_channels,
        "batch_size": batch_size,
        "seeds": seeds,
    }
    settings = {key: value for key, value in named.items() if value is not None}
    if (drawn := sample_model(model, classes or (), settings, out, png, latents)) is not None:
        result(drawn, as_json)
