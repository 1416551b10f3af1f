"""`dualoptim sample`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    Json,
    app,
    result,
    starting,
)


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder or a pipeline folder.")],
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A class to draw, by name or id; repeat for several [all].")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of each class, such as 0-499.")] = "0-15",
    out: Annotated[Path, typer.Option(help="Folder for shards, manifest and PNG files.")] = Path("samples"),
    scheduler: Annotated[str | None, typer.Option(help="ddpm, ddim or dpmsolver++.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the scheduler.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="s = w + 1; 1 is the conditional model.")] = None,
    guidance_channels: Annotated[int | None, typer.Option(help="Guide the first so many channels [all].")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per batch.")] = None,
    png: Annotated[bool, typer.Option(help="Also write one PNG an image.")] = True,
    latents: Annotated[
        bool, typer.Option("--latents", help="Also keep a latent model's latents, for data.name=replay.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Draw images; a run folder's recipe gives the scheduler settings that are not named here."""
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
