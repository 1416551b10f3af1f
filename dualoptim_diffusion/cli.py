"""The command line: verbs, thin. Torch is imported only after parsing, so that help is instant."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualoptim_diffusion.errors import EXIT_FAILED, EXIT_STOPPED, InputError, NonFiniteError, Stopped

if TYPE_CHECKING:
    from dualoptim_diffusion.experiment import Experiment

app = typer.Typer(
    help="Name a class, get back a diffusers pipeline that can no longer draw it, and a report that proves it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a packaged one.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Overrides, such as method.forget_lr=3e-4.")
]
Classes = Annotated[
    list[str] | None, typer.Option("--class", help="A class to forget, by name or id; repeat for several.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
InceptionWeights = Annotated[
    Path | None,
    typer.Option(help="torch-fidelity's Inception weights, for FID without a network.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run: counts, memory, time.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
StopAfter = Annotated[
    int | None, typer.Option(min=1, help="Save and stop after N steps, as a signal would (exit code 75).", metavar="N")
]


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
    from dualoptim_diffusion.experiment import open_experiment

    experiment = open_experiment(recipe, classes or (), [*(overrides or ()), *_inception(inception_weights)])
    if dry_run:
        from dualoptim_diffusion.dry_run import plan

        _planned(plan(experiment), as_json)
        return
    if resume and overwrite:
        raise InputError("--resume keeps what is there and --overwrite replaces it; give one of them.")
    out = out or Path("runs") / "-".join([experiment.recipe_path.stem, *experiment.forget_names])
    from dualoptim_diffusion import forgetting
    from dualoptim_diffusion.report import table

    results = forgetting.forget(
        experiment, out, mask_path=mask, resume=resume, overwrite=overwrite, stop_after=stop_after
    )
    if experiment.accelerator.is_main_process:
        _result(results if as_json else f"{table(results)}\n\n{out / 'report.html'}", as_json)


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
    from dualoptim_diffusion import masking
    from dualoptim_diffusion.assets import obtain_model
    from dualoptim_diffusion.experiment import open_experiment
    from dualoptim_diffusion.models import weights_sha256
    from dualoptim_diffusion.saliency import density, save_mask

    _refuse_existing(out, overwrite)
    experiment = open_experiment(recipe, classes or (), overrides or ())
    id2label = experiment.facts.id2label
    model = obtain_model(experiment.recipe.model, experiment.recipe_path, experiment.accelerator, id2label)
    base_sha256 = weights_sha256(model.network.state_dict())
    model.prepare(experiment.accelerator)
    mask = masking.saliency(experiment, model)
    if experiment.accelerator.is_main_process:
        provenance = masking.mask_provenance(experiment, base_sha256)
        save_mask(out, mask, provenance)
        _result({"mask": str(out), "density": density(mask)} | provenance, as_json)


@app.command()
def pretrain(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Also copy the pipeline folder here.")] = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    stop_after: StopAfter = None,
    as_json: Json = False,
) -> None:
    """Train a model from scratch; kept by recipe hash, so a second call finds it, and an interrupted one goes on."""
    from dualoptim_diffusion.assets import load_model, make_accelerator, obtain_pretrained
    from dualoptim_diffusion.config import PretrainRecipe
    from dualoptim_diffusion.data import load_dataset
    from dualoptim_diffusion.models import weights_sha256
    from dualoptim_diffusion.recipes import load_recipe

    _refuse_existing(out, overwrite, "model_index.json")
    loaded = load_recipe(PretrainRecipe, recipe, overrides or ())
    accelerator = make_accelerator(loaded.run.device, loaded.run.precision)
    if dry_run:
        from dualoptim_diffusion.dry_run import plan_pretraining

        _planned(plan_pretraining(loaded, accelerator), as_json)
        return
    folder = obtain_pretrained(loaded, load_dataset(loaded.data)[0], accelerator, stop_after)
    if accelerator.is_main_process:
        folder = _copy(folder, out)
        _result({"model": str(folder), "sha256": weights_sha256(load_model(folder).network.state_dict())}, as_json)


@app.command()
def encode(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """Encode all training images of a latent model's recipe once, both ways round; interrupted, it goes on.

    Runs encode what they need by themselves; this is for many runs over one data set, and takes several processes
    under `accelerate launch`. The latents lie in data.latents, or in the cache.
    """
    from dualoptim_diffusion.assets import make_accelerator, obtain_model
    from dualoptim_diffusion.config import ForgetRecipe
    from dualoptim_diffusion.data import load_dataset
    from dualoptim_diffusion.encoding import encode_all
    from dualoptim_diffusion.recipes import find_recipe, load_recipe

    loaded = load_recipe(ForgetRecipe, recipe, overrides or ())
    accelerator = make_accelerator(loaded.run.device, loaded.run.precision)
    dataset, _ = load_dataset(loaded.data)
    model = obtain_model(loaded.model, find_recipe(recipe), accelerator)
    model.prepare(accelerator)
    written = encode_all(dataset, loaded.data, model, accelerator)
    if accelerator.is_main_process:
        _result(written, as_json)


@app.command("train-classifier")
def train_classifier(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Also copy the classifier folder here.")] = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train the classifier that judges samples, and measure it on held-out real images."""
    from dualoptim_diffusion.assets import make_accelerator, obtain_trained_classifier
    from dualoptim_diffusion.classifier import Classifier
    from dualoptim_diffusion.config import ClassifierRecipe
    from dualoptim_diffusion.recipes import load_recipe

    _refuse_existing(out, overwrite, "classifier.json")
    loaded = load_recipe(ClassifierRecipe, recipe, overrides or ())
    accelerator = make_accelerator(loaded.run.device)
    if dry_run:
        from dualoptim_diffusion.dry_run import plan_classifier

        _planned(plan_classifier(loaded, accelerator.device), as_json)
        return
    folder = obtain_trained_classifier(loaded, accelerator)
    if accelerator.is_main_process:
        folder = _copy(folder, out)
        info = Classifier.load(folder).info
        _result({"classifier": str(folder), "accuracy": info.accuracy, "n_held_out": info.n_held_out}, as_json)


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A published checkpoint file.")],
    out: Annotated[Path, typer.Option(help="Where to write the pipeline folder.", show_default=False)],
    weights: Annotated[
        str, typer.Option(metavar="raw|ema", help="Which; the published forgetting runs start from the raw ones.")
    ] = "raw",
    image_size: Annotated[int, typer.Option(min=1, help="Height and width of a U-Net's images in pixels.")] = 32,
    num_heads: Annotated[
        int | None, typer.Option(min=1, help="Heads of a DiT's attention [as in DiT-S, B, L and XL].")
    ] = None,
    vae: Annotated[
        str | None, typer.Option(help="Autoencoder of a DiT's latents: a folder or hub id.", show_default=False)
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Names in order, cifar10 or imagenet [CIFAR-10's where it has that form]."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint of SA, SalUn, SFRon, DualOptim or DiT into a pipeline folder; nothing in it is executed."""
    _refuse_existing(out, overwrite, "model_index.json")
    from dualoptim_diffusion.porting import import_checkpoint

    _result(import_checkpoint(checkpoint, out, weights, image_size, class_names, num_heads, vae), as_json)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder or a pipeline folder.")],
    out: Annotated[Path, typer.Option(help="Where to write the folder.", show_default=False)],
    format_name: Annotated[
        str, typer.Option("--format", metavar="unet2d", help="unet2d: a UNet2DModel that plain diffusers loads.")
    ] = "unet2d",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a model for diffusers without this package; its outputs stay equal."""
    _refuse_existing(out, overwrite, "model_index.json")
    from dualoptim_diffusion.porting import export_model

    _result(export_model(model, out, format_name), as_json)


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
    from dualoptim_diffusion.sample_folder import sample_model

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
        _result(drawn, as_json)


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
    from dualoptim_diffusion.classes import resolve_class
    from dualoptim_diffusion.grids import choose_rows, draw_contact_sheet, draw_grid, grid_files, sheet_name
    from dualoptim_diffusion.scoring import sample_both

    if sum(bool(given) for given in (classes, others is not None, contact_sheet)) > 1:
        raise InputError("--class, --others and --contact-sheet each choose what is shown; give one of them.")
    for path in () if out is None else grid_files(out)[: 1 if contact_sheet else None]:
        _refuse_existing(path, overwrite)
    experiment = _open_run(run)
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
    from dualoptim_diffusion.report import table
    from dualoptim_diffusion.scoring import evaluate_run, open_bench

    for override in overrides or ():
        if override.partition(".")[0] not in ("sampling", "evaluation"):
            raise InputError(f"{override!r} would change how the run was made; override sampling and evaluation alone.")
    experiment = _open_run(run, [*(overrides or ()), *_inception(inception_weights)])
    results = evaluate_run(experiment, run, bench=open_bench(experiment, real_images))
    if experiment.accelerator.is_main_process:
        _result(results if as_json else table(results), as_json)


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
    _result(written.json if as_json else f"{written.text}\n\n{written.page}", as_json)


@app.command()
def classes(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A recipe, a run folder or a pipeline folder.")],
    as_json: Json = False,
) -> None:
    """List the classes of a recipe's data or of a model."""
    if Path(source).is_dir():
        from dualoptim_diffusion.assets import load_model
        from dualoptim_diffusion.models.pipeline import model_folder

        id2label = load_model(model_folder(Path(source))).id2label
    else:
        from dualoptim_diffusion.config import ForgetRecipe
        from dualoptim_diffusion.data import data_facts
        from dualoptim_diffusion.recipes import load_recipe

        id2label = data_facts(load_recipe(ForgetRecipe, source).data).id2label
    _result(id2label if as_json else "\n".join(f"{i}  {name}" for i, name in id2label.items()), as_json)


def _planned(plan: dict[str, Any], as_json: bool) -> None:
    from dualoptim_diffusion.dry_run import readable

    _result(plan if as_json else readable(plan), as_json)


def _inception(weights: Path | None) -> list[str]:
    """Overrides that measure on Inception with weights from a file."""
    if weights is None:
        return []
    return ["evaluation.features=inception", f"evaluation.features_weights={weights.resolve()}"]


def _open_run(run: Path, overrides: Sequence[str] = ()) -> "Experiment":
    from dualoptim_diffusion.experiment import open_experiment

    if not (run / "recipe.yaml").is_file():
        raise InputError(f"There is no run folder {str(run)!r} (it would hold recipe.yaml).")
    return open_experiment(str(run / "recipe.yaml"), overrides=overrides)


def _refuse_existing(out: Path | None, overwrite: bool, marker: str | None = None) -> None:
    """Only a file replaces a file, and only a folder that holds `marker` the like of it."""
    if out is None or not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} exists; use --overwrite to replace it, or another --out.")
    if out.is_dir() != (marker is not None) or (marker is not None and not (out / marker).is_file()):
        raise InputError(f"{out} exists and is not what this command writes; choose another --out.")


def _copy(folder: Path, out: Path | None) -> Path:
    import shutil

    from dualoptim_diffusion.checkpoint import atomic_path

    if out is None:
        return folder
    with atomic_path(out) as beside:
        shutil.copytree(folder, beside)
    return out


def _result(value: Any, as_json: bool) -> None:
    """Results go to stdout: JSON when asked for, text as it is, anything else as readable YAML."""
    if as_json:
        typer.echo(json.dumps(value, indent=1))
    elif isinstance(value, str):
        typer.echo(value)
    else:
        import yaml

        typer.echo(yaml.safe_dump(value, sort_keys=False).rstrip())


def main() -> None:
    """Entry point: every failure is one sentence on stderr and a non-zero exit."""
    try:
        app()
    except (InputError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except Stopped as stop:
        print(f"{stop} Run the same command again to go on (forget: with --resume).", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
