"""`dualoptim pretrain`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    MODELS,
    DryRun,
    Json,
    Overrides,
    Overwrite,
    StopAfter,
    planned,
    recipe_argument,
    refuse_existing,
    result,
    starting,
    verb,
)


@verb(MODELS, "dualoptim pretrain digits_pretrain --out base")
def pretrain(
    recipe: Annotated[str, recipe_argument("pretrain")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Also copy the pipeline folder here.")] = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    stop_after: StopAfter = None,
    as_json: Json = False,
) -> None:
    """Train a model from scratch.

    It is cached by recipe hash and reused; an interrupted training continues.
    """
    refuse_existing(out, overwrite, "model_index.json")
    starting(f"Pretraining as {recipe} says")
    from dualoptim_diffusion.runs.pretrain import make_base_model, open_pretraining

    loaded, accelerator = open_pretraining(recipe, overrides or ())
    if dry_run:
        from dualoptim_diffusion.runs.dry_run import plan_pretraining

        planned(plan_pretraining(loaded, accelerator), as_json)
    elif (made := make_base_model(loaded, accelerator, out, stop_after)) is not None:
        result(made, as_json)
