"""`dualoptim evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    LOOKING,
    InceptionWeights,
    Json,
    RunArgument,
    inception,
    result,
    starting,
    verb,
)


@verb(LOOKING, "dualoptim evaluate runs/demo evaluation.protocol=quick")
def evaluate(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="SECTION.KEY=VALUE", help="Such as evaluation.protocol=quick."),
    ] = None,
    inception_weights: InceptionWeights = None,
    real_images: Annotated[
        Path | None, typer.Option(help="A folder CLASS/*.png to measure the classifier on.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a run again, under its own or another protocol.

    Samples are reused where they match. Rewrites results, grid and report.

    With overrides that change what is measured, the figures are added to the run and to its report.

    Overrides may change the sections sampling and evaluation alone: the run was made with the others. data.path and
    model.path say where the images and the base model lie now.
    """
    starting(f"Evaluating {run}")
    from dualoptim_diffusion.report import table
    from dualoptim_diffusion.runs.evaluate import evaluate_again
    from dualoptim_diffusion.runs.finished import open_run

    words = [*(overrides or ()), *inception(inception_weights)]
    experiment = open_run(run, words, allowed=("sampling", "evaluation"))
    results = evaluate_again(experiment, run, real_images)
    if experiment.accelerator.is_main_process:
        result(results if as_json else table(results), as_json)
