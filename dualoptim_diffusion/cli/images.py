"""Commands that draw."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import Json, Overwrite, RunArgument, app, open_run, refuse_existing, result
from dualoptim_diffusion.core.errors import InputError


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
    batch_size: Annotated[int | None, typer.Option(help="Images drawn at once.")] = None,
    png: Annotated[bool, typer.Option(help="Also write one PNG an image.")] = True,
    latents: Annotated[
        bool, typer.Option("--latents", help="Also keep a latent model's latents, for data.name=replay.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Draw images; a run folder's recipe gives the scheduler settings that are not named here."""
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


@app.command()
def grid(
    run: RunArgument,
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
    """Draw the before/after grid of a run anew, for other classes or more columns, or one class's contact sheet."""
    from dualoptim_diffusion.core.classes import resolve_class
    from dualoptim_diffusion.drawing.grids import choose_rows, draw_contact_sheet, draw_grid, grid_files, sheet_name
    from dualoptim_diffusion.runs.evaluate import sample_both

    if sum(bool(given) for given in (classes, others is not None, contact_sheet)) > 1:
        raise InputError("--class, --others and --contact-sheet each choose what is shown; give one of them.")
    for path in () if out is None else grid_files(out)[: 1 if contact_sheet else None]:
        refuse_existing(path, overwrite)
    experiment = open_run(run)
    id2label, forgotten = experiment.labels, experiment.forget_classes
    rows = [resolve_class(name, id2label) for name in classes or ()] or choose_rows(id2label, forgotten, others)
    sheet = None if contact_sheet is None else resolve_class(contact_sheet, id2label)
    drawn = sample_both(experiment, run)
    before, after = drawn.original, drawn.unlearned
    if not experiment.accelerator.is_main_process:
        return
    if sheet is not None:
        out = out or run / sheet_name(id2label[sheet])
        draw_contact_sheet(out, before[sheet], after[sheet], id2label[sheet], sheet in forgotten)
    else:
        draw_grid(out := out or run / "grid.png", before, after, id2label, forgotten, columns, rows)
    typer.echo(out)
