"""`dualoptim delta` and `dualoptim apply`: what a run changed of its base model, as a file that makes it again."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from dualoptim_diffusion.core.classes import usable_names
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import read_yaml, recipe_sha256
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.delta_file import VALUES, Delta, Header, changed_weights, patched, read_delta
from dualoptim_diffusion.files.delta_file import write_delta as write_file
from dualoptim_diffusion.files.pipeline_folder import is_hub_id, model_folder, pipeline_folder
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.models.loading import downloaded, load_model
from dualoptim_diffusion.models.stock import is_stock
from dualoptim_diffusion.runs.finished import open_recipes, open_run
from dualoptim_diffusion.runs.models import obtain_base
from dualoptim_diffusion.runs.provenance import package_version


def write_delta(run: Path, out: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the patch that makes a run's model of its base model.

    Args:
        overrides: `model.path=FOLDER` says where the base model lies now, `data.path=FOLDER` where the images do that
            one is pretrained on.

    Returns:
        Sizes in bytes, numbers of weights and tensors, and the hashes of both models.

    Raises:
        InputError: if there is no run, or its base model cannot be had or is another.
    """
    folder = RunFolder(run)
    _, recipe = open_recipes(run, overrides)
    result = load_model(folder.model)
    if recipe.model.path is None:
        base = obtain_base(open_run(run, overrides))
    else:  # needs no images
        base = load_model(Path(recipe.model.path), null_class=recipe.model.null_class, id2label=result.id2label)
    header = Header(
        base_sha256=model_sha256(base),
        result_sha256=model_sha256(result),
        forgotten=result.forgotten,
        method=recipe.method.name,
        recipe_sha256=recipe_sha256(read_yaml(folder.recipe)),
        package_version=package_version(),
        class_names=[result.id2label[i] for i in range(result.num_classes)],  # folders sort ids as text
        null_class=recipe.model.null_class,
    )
    folder.check_origin("base_model_sha256", header.base_sha256, "base model", "model.path=FOLDER")
    weights = {name: value.cpu() for name, value in base.network.state_dict().items()}
    try:
        tensors = changed_weights(weights, result.network.state_dict())
    except ValueError as error:
        raise InputError(f"The model of {run} is another network than its base model ({error}).") from None
    write_file(out, header, tensors)
    return _sizes(out, result, tensors) | header.model_dump(include={"forgotten", "base_sha256", "result_sha256"})


def _sizes(out: Path, result: DenoisingModel, tensors: dict[str, Any]) -> dict[str, Any]:
    weights = list(result.network.state_dict().values())
    patch, model = out.stat().st_size, sum(value.nbytes for value in weights)
    values = {name: tensor.numel() for name, tensor in tensors.items() if name.startswith(VALUES)}
    partial = len(tensors) - len(values)  # those say with one more tensor where their values belong
    return {
        "patch": str(out),
        "patch_bytes": patch,
        "model_bytes": model,
        "share": f"{patch / model:.1%}",
        "weights": f"{sum(values.values())} of {sum(value.numel() for value in weights)}",
        "tensors": {"partial": partial, "whole": len(values) - partial, "unchanged": len(weights) - len(values)},
    }


def apply_deltas(base: Path, patches: Sequence[Path], out: Path) -> dict[str, Any]:
    """Writes the pipeline folder of the model that patches make of a base model, each of what the one before it made.

    Args:
        base: a run folder (the model in it), a pipeline folder or a hub id.

    Returns:
        What was written, and its hash, which is the one that the last patch records.

    Raises:
        InputError: if a patch is damaged or of another base; nothing is written then.
    """
    deltas = [read_delta(path) for path in patches]
    for before, after in pairwise(deltas):
        _check_follows(before, after)
    first = deltas[0].header
    model = load_model(base, null_class=first.null_class if _lies_stock(base) else None)
    if (found := model_sha256(model)) != first.base_sha256:
        raise InputError(
            f"The model in {base} has the sha256 {found}, but {patches[0]} is a patch of {first.base_sha256}; give the "
            "model that its run started from."
        )
    for delta in deltas:
        _apply(model, delta)
    with atomic_path(out) as beside:
        model.save(beside)
    return {"model": str(out), "sha256": deltas[-1].header.result_sha256, "forgotten": model.forgotten}


def _check_follows(before: Delta, after: Delta) -> None:
    if after.header.base_sha256 == before.header.result_sha256:
        return
    if after.header.base_sha256 == before.header.base_sha256:
        raise InputError(
            f"{before.path} and {after.path} are patches of the same base, and changed weights do not add up; apply "
            "one, or forget all classes in one run or one run after another."
        )
    raise InputError(
        f"{after.path} is a patch of {after.header.base_sha256}, but {before.path} makes "
        f"{before.header.result_sha256}; give patches in the order of their runs."
    )


def _lies_stock(source: Path) -> bool:
    """Whether a base model is a stock network, where the patch says which row of its table means no class."""
    folder = downloaded(str(source)) if is_hub_id(source) else model_folder(source)
    with pipeline_folder(folder):
        return is_stock(folder)


def _apply(model: DenoisingModel, delta: Delta) -> None:
    """Gives a model the weights and the names of a patch's result.

    Raises:
        InputError: if it does not become the model that the patch records.
    """
    header = delta.header
    try:
        model.network.load_state_dict(patched(model.network.state_dict(), delta.tensors))
        if len(header.class_names) != model.num_classes:
            raise ValueError(f"it names {len(header.class_names)} classes, the model draws {model.num_classes}")
        model.id2label = usable_names(dict(enumerate(header.class_names)))
        if (found := model_sha256(model)) != header.result_sha256:
            raise ValueError(f"it makes weights of the sha256 {found}, expected {header.result_sha256}")
    except ValueError as error:
        raise InputError(f"{delta.path} is damaged ({error}); make it again with `dualoptim delta`.") from None
    model.forgotten = list(header.forgotten)
