"""`dualoptim init`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dualoptim_diffusion.cli.options import FORGETTING, Json, result, starting, verb
from dualoptim_diffusion.core.errors import InputError


@verb(FORGETTING, "dualoptim init photos --out mine", "dualoptim init photos/labels.csv --out mine")
def init(
    out: Annotated[Path, typer.Option(help="Folder for the recipes; it must not be there yet.")],
    photos: Annotated[
        Path | None,
        typer.Argument(
            metavar="PHOTOS",
            help="A folder with train/CLASS/ or CLASS/ of images, a CSV of files and classes, or a folder "
            "that the package datasets saved.",
        ),
    ] = None,
    hf: Annotated[str | None, typer.Option(help="Instead of PHOTOS, a data set's id on the Hugging Face hub.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="A run or pipeline folder that draws these classes; else one is trained.")
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="A folder of train-classifier that knows these classes; else one is trained.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write recipes for your own images.

    The numbers suit the images, this machine, and your own model if you have one. Nothing is trained.
    """
    source = photos if hf is None else hf
    if source is None or (hf is not None and photos is not None):
        raise InputError("Name either PHOTOS or --hf: the images are read from one of them.")
    starting(f"Looking at {source}")
    from dualoptim_diffusion.runs.starter import write_recipes

    made = write_recipes(source, out, model, classifier)
    result(made if as_json else _told(made), as_json)


def _told(made: dict[str, Any]) -> str:
    found, plan = made["found"], made["plan"]
    counts = ", ".join(f"{name} {n}" for name, n in list(found["counts"].items())[:8])
    more = ", ..." if len(found["counts"]) > 8 else ""
    size = f"{found['side']} pixels a side" if found["side"] else "of different sizes"
    held = f"{found['held_out']} held-out images" if found["held_out"] else "a fifth of each class will be held out"
    seconds = plan["estimated_seconds"].get("total", 0)
    return "\n".join(
        [
            f"Classes: {counts}{more}; {size}; {held}.",
            *(f"Wrote {path}" for path in made["files"]),
            *([f"Estimated time of a first run here: {seconds / 60:.0f} minutes."] if seconds else []),
            "Next:",
            *(f"  {command}" for command in made["next"]),
        ]
    )
