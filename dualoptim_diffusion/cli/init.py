"""`dualoptim init`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dualoptim_diffusion.cli.options import FORGETTING, Json, result, starting, verb


@verb(FORGETTING, "dualoptim init photos --out mine")
def init(
    photos: Annotated[Path, typer.Argument(help="A folder with train/CLASS/ or CLASS/ of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the recipes; it must not be there yet.")],
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
    starting(f"Looking at {photos}")
    from dualoptim_diffusion.runs.starter import write_recipes

    made = write_recipes(photos, out, model, classifier)
    result(made if as_json else _told(made), as_json)


def _told(made: dict[str, Any]) -> str:
    found, plan = made["found"], made["plan"]
    counts = ", ".join(f"{name} {n}" for name, n in list(found["counts"].items())[:8])
    more = ", ..." if len(found["counts"]) > 8 else ""
    size = f"{found['side']} pixels a side" if found["side"] else "of different sizes"
    held = f"{found['held_out']} held-out images" if found["held_out"] else "a fifth of each class will be held out"
    seconds = sum(plan["estimated_seconds"].values())
    return "\n".join(
        [
            f"Classes: {counts}{more}; {size}; {held}.",
            *(f"Wrote {path}" for path in made["files"]),
            *([f"Estimated time of a first run here: {seconds / 60:.0f} minutes."] if seconds else []),
            "Next:",
            *(f"  {command}" for command in made["next"]),
        ]
    )
