"""`dualoptim saliency`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    FORGETTING,
    Classes,
    Json,
    Overrides,
    Overwrite,
    RecipeArgument,
    refuse_existing,
    result,
    starting,
    verb,
)


@verb(FORGETTING, "dualoptim saliency digits_sfron_dual --class three --out mask.safetensors")
def saliency(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    classes: Classes = None,
    out: Annotated[Path, typer.Option(help="Where to write the mask.")] = Path("mask.safetensors"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compute which weights forgetting may change.

    Give the mask to `forget --mask`; without one, forget computes what its recipe asks for.
    """
    refuse_existing(out, overwrite)
    starting(f"Making a mask as {recipe} says")
    from dualoptim_diffusion.runs.experiment import open_experiment
    from dualoptim_diffusion.runs.mask import make_mask

    experiment = open_experiment(recipe, classes or (), overrides or ())
    if (made := make_mask(experiment, out)) is not None:
        result(made, as_json)
