"""Commands that make, turn and list models and what they learn from."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    DryRun,
    Json,
    Overrides,
    Overwrite,
    RecipeArgument,
    StopAfter,
    app,
    copy_folder,
    planned,
    refuse_existing,
    result,
)


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
    from dualoptim_diffusion.core.recipes import load_recipe
    from dualoptim_diffusion.core.training_config import PretrainRecipe
    from dualoptim_diffusion.data import load_dataset
    from dualoptim_diffusion.models import model_sha256
    from dualoptim_diffusion.models.loading import load_model
    from dualoptim_diffusion.runs.obtain import make_accelerator, obtain_pretrained

    refuse_existing(out, overwrite, "model_index.json")
    loaded = load_recipe(PretrainRecipe, recipe, overrides or ())
    accelerator = make_accelerator(loaded.run.device)
    if dry_run:
        from dualoptim_diffusion.runs.dry_run import plan_pretraining

        planned(plan_pretraining(loaded, accelerator), as_json)
        return
    folder = obtain_pretrained(loaded, load_dataset(loaded.data)[0], accelerator, stop_after)
    if accelerator.is_main_process:
        folder = copy_folder(folder, out)
        result({"model": str(folder), "sha256": model_sha256(load_model(folder))}, as_json)


@app.command()
def encode(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """Encode all training images of a latent model's recipe once, both ways round; interrupted, it goes on.

    Runs encode what they need by themselves; this is for many runs over one data set, and several processes share it.
    The latents lie in data.latents, or in the cache.
    """
    from dualoptim_diffusion.core.config import ForgetRecipe
    from dualoptim_diffusion.core.recipes import find_recipe, load_recipe
    from dualoptim_diffusion.data import load_dataset
    from dualoptim_diffusion.data.encoding import encode_all
    from dualoptim_diffusion.runs.obtain import make_accelerator, obtain_model

    loaded = load_recipe(ForgetRecipe, recipe, overrides or ())
    accelerator = make_accelerator(loaded.run.device)
    dataset, _ = load_dataset(loaded.data)
    model = obtain_model(loaded.model, find_recipe(recipe), accelerator)
    model.prepare(accelerator)
    written = encode_all(dataset, loaded.data, model, accelerator)
    if accelerator.is_main_process:
        result(written, as_json)


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
    from dualoptim_diffusion.core.recipes import load_recipe
    from dualoptim_diffusion.core.training_config import ClassifierRecipe
    from dualoptim_diffusion.judge.classifier import Classifier
    from dualoptim_diffusion.runs.obtain import make_accelerator, obtain_trained_classifier

    refuse_existing(out, overwrite, "classifier.json")
    loaded = load_recipe(ClassifierRecipe, recipe, overrides or ())
    accelerator = make_accelerator(loaded.run.device)
    if dry_run:
        from dualoptim_diffusion.runs.dry_run import plan_classifier

        planned(plan_classifier(loaded, accelerator.device), as_json)
        return
    folder = obtain_trained_classifier(loaded, accelerator)
    if accelerator.is_main_process:
        folder = copy_folder(folder, out)
        info = Classifier.load(folder).info
        result({"classifier": str(folder), "accuracy": info.accuracy, "n_held_out": info.n_held_out}, as_json)


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
    refuse_existing(out, overwrite, "model_index.json")
    from dualoptim_diffusion.runs.porting import import_checkpoint

    result(import_checkpoint(checkpoint, out, weights, image_size, class_names, num_heads, vae), as_json)


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
    refuse_existing(out, overwrite, "model_index.json")
    from dualoptim_diffusion.runs.porting import export_model

    result(export_model(model, out, format_name), as_json)


@app.command()
def classes(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A recipe, a run folder or a pipeline folder.")],
    as_json: Json = False,
) -> None:
    """List the classes of a recipe's data or of a model."""
    if Path(source).is_dir():
        from dualoptim_diffusion.models.folders import model_folder
        from dualoptim_diffusion.models.loading import load_model

        id2label = load_model(model_folder(Path(source))).id2label
    else:
        from dualoptim_diffusion.core.config import ForgetRecipe
        from dualoptim_diffusion.core.recipes import load_recipe
        from dualoptim_diffusion.data import data_facts

        id2label = data_facts(load_recipe(ForgetRecipe, source).data).id2label
    result(id2label if as_json else "\n".join(f"{i}  {name}" for i, name in id2label.items()), as_json)
