"""`dualoptim train-classifier`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    MODELS,
    DryRun,
    Json,
    Overrides,
    Overwrite,
    planned,
    recipe_argument,
    refuse_existing,
    result,
    starting,
    verb,
)


@verb(
    MODELS,
    "dualoptim train-classifier digits_classifier --out judge",
    name="train-classifier",
)
def train_classifier(
    recipe: Annotated[str, recipe_argument("train-classifier")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Also copy the classifier folder here.")] = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train the classifier that judges samples.

    It is measured on held-out real images, cached by recipe hash and reused.
    """
    refuse_existing(out, overwrite, "classifier.json")
    starting(f"Training a classifier as {recipe} says")
    from dualoptim_diffusion.runs.train_classifier import make_classifier, open_classifier_recipe

    loaded, accelerator = open_classifier_recipe(recipe, overrides or ())
    if dry_run:
        from dualoptim_diffusion.runs.dry_run import plan_classifier

        planned(plan_classifier(loaded, accelerator.device), as_json)
    elif (made := make_classifier(loaded, accelerator, out)) is not None:
        result(made, as_json)
