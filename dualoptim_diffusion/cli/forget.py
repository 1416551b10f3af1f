"""Commands that forget, and score and report what was forgotten."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    Classes,
    DryRun,
    InceptionWeights,
    Json,
    Overrides,
    Overwrite,
    RecipeArgument,
    RunArgument,
    StopAfter,
    app,
    inception,
    open_run,
    planned,
    refuse_existing,
    result,
)
from dualoptim_diffusion.core.errors import InputError


@app.command()
def forget(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    classes: Classes = None,
    out: Annotated[Path | None, typer.Option(help="Run folder [default: runs/RECIPE-CLASS].")] = None,
    mask: Annotated[Path | None, typer.Option(help="A mask made by `dualoptim saliency`.")] = None,
    dry_run: DryRun = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Overwrite = False,
    stop_after: StopAfter = None,
    inception_weights: InceptionWeights = None,
    as_json: Json = False,
) -> None:
    """Forget classes of a model, sample it before and after, and report.

    With one Adam a phase the forget weight cancels except through clipping: method.forget_lr is the real knob.
    """
    from dualoptim_diffusion.runs.experiment import open_experiment

    experiment = open_experiment(recipe, classes or (), [*(overrides or ()), *inception(inception_weights)])
    if dry_run:
        experiment.check_states(masked=mask is not None)
        from dualoptim_diffusion.runs.dry_run import plan

        planned(plan(experiment), as_json)
        return
    if resume and overwrite:
        raise InputError("--resume keeps what is there and --overwrite replaces it; give one of them.")
    from dualoptim_diffusion.core.classes import file_name
    from dualoptim_diffusion.report import table
    from dualoptim_diffusion.runs import forget as forgetting

    out = out or Path("runs") / file_name("-".join([experiment.recipe_path.stem, *experiment.forget_names]))
    results = forgetting.forget(
        experiment, out, mask_path=mask, resume=resume, overwrite=overwrite, stop_after=stop_after
    )
    if experiment.accelerator.is_main_process:
        result(results if as_json else f"{table(results)}\n\n{out / 'report.html'}", as_json)


@app.command()
def saliency(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    classes: Classes = None,
    out: Annotated[Path, typer.Option(help="Where to write the mask.")] = Path("mask.safetensors"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compute which weights the forget phase may change, for `forget --mask`."""
    from dualoptim_diffusion.models import model_sha256
    from dualoptim_diffusion.runs import mask as masking
    from dualoptim_diffusion.runs.experiment import open_experiment
    from dualoptim_diffusion.runs.obtain import obtain_model
    from dualoptim_diffusion.unlearning.saliency import density, save_mask

    refuse_existing(out, overwrite)
    experiment = open_experiment(recipe, classes or (), overrides or ())
    id2label = experiment.facts.id2label
    model = obtain_model(experiment.recipe.model, experiment.recipe_path, experiment.accelerator, id2label)
    base_sha256 = model_sha256(model)
    experiment.prepare(model)
    mask = masking.saliency(experiment, model)
    if experiment.accelerator.is_main_process:
        provenance = masking.mask_provenance(experiment, model, base_sha256)
        save_mask(out, mask, provenance)
        result({"mask": str(out), "density": density(mask)} | provenance, as_json)


@app.command()
def evaluate(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Such as evaluation.protocol=quick."),
    ] = None,
    inception_weights: InceptionWeights = None,
    real_images: Annotated[
        Path | None, typer.Option(help="A folder CLASS/*.png to measure the classifier on.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Sample (or reuse matching samples) and score a run again; rewrites results, grid and report.

    Overrides may change the sections sampling and evaluation alone: the run was made with the others.
    """
    from dualoptim_diffusion.files.locks import held
    from dualoptim_diffusion.report import table
    from dualoptim_diffusion.runs.evaluate import evaluate_run, open_bench

    for override in overrides or ():
        if override.partition(".")[0] not in ("sampling", "evaluation"):
            raise InputError(f"{override!r} would change how the run was made; override sampling and evaluation alone.")
    experiment = open_run(run, [*(overrides or ()), *inception(inception_weights)])
    with held(run, experiment.accelerator):
        results = evaluate_run(experiment, run, bench=open_bench(experiment, real_images))
    if experiment.accelerator.is_main_process:
        result(results if as_json else table(results), as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files [default: the one RUN, or report for several].")
    ] = None,
    control: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A model retrained without the class; gaps to it are shown.")
    ] = None,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="List figures of different protocols, with a warning.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print one table of one or more runs; write it as HTML page, Markdown, CSV and JSON."""
    from dualoptim_diffusion.report import report as write

    written = write(runs, out, control, mixed)
    result(written.json if as_json else f"{written.text}\n\n{written.page}", as_json)
