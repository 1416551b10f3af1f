"""A whole experiment: recipe in, run folder out."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from dualoptim_diffusion.assets import load_model, make_accelerator, obtain_classifier, obtain_model, save_model
from dualoptim_diffusion.checkpoint import atomic_path, write_json
from dualoptim_diffusion.classes import resolve_classes
from dualoptim_diffusion.config import (
    ClassifierRecipe,
    ForgetRecipe,
    PretrainRecipe,
    cache_folder,
    find_recipe,
    load_recipe,
    parse_seeds,
    recipe_sha256,
    resolve_keys,
)
from dualoptim_diffusion.data import Batches, ImageSet, load_dataset, split
from dualoptim_diffusion.dual_optim import (
    ELEMENTWISE,
    DualOptim,
    check_optimizer_name,
    freeze_off_mask,
    make_optimizer,
)
from dualoptim_diffusion.ema import EMA
from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.evaluation import evaluate, match_classes
from dualoptim_diffusion.evaluation.protocol import protocol_of, protocol_sha256
from dualoptim_diffusion.grids import draw_grid
from dualoptim_diffusion.methods import Method, find_method, phases
from dualoptim_diffusion.models import ConditionalDDPM, weights_sha256
from dualoptim_diffusion.provenance import describe_origin
from dualoptim_diffusion.report import write_report
from dualoptim_diffusion.saliency import Mask, compute_mask, density, load_mask, save_mask
from dualoptim_diffusion.samples import describe, draw_samples
from dualoptim_diffusion.training import pretrain, run_phases

Results = dict[str, Any]


def say(text: str) -> None:
    """Logs go to stderr; stdout is for results."""
    tqdm.write(text, file=sys.stderr)


@dataclass(frozen=True)
class Experiment:
    """A recipe with every name in it resolved and checked, before anything is computed."""

    recipe: ForgetRecipe
    recipe_path: Path
    values: dict[str, Any]  # the resolved recipe as plain data
    accelerator: Accelerator
    train_set: ImageSet
    forget_classes: tuple[int, ...]
    method: Method

    @property
    def recipe_sha256(self) -> str:
        return recipe_sha256(self.values)

    @property
    def forget_names(self) -> list[str]:
        return [self.train_set.id2label[i] for i in self.forget_classes]

    def batches(self, model: ConditionalDDPM, dataset: ImageSet, phase: str, batch_size: int | None = None) -> Batches:
        """Batches of one phase for this process."""
        return Batches(
            dataset,
            model,
            seed=self.recipe.run.seed,
            phase=phase,
            batch_size=batch_size or self.recipe.data.batch_size,
            horizontal_flip=self.recipe.data.horizontal_flip,
            device=self.accelerator.device,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
        )


def open_experiment(recipe_name: str, class_names: Sequence[str] = (), overrides: Sequence[str] = ()) -> Experiment:
    """Reads a recipe and checks all that can be checked without a model.

    Raises:
        InputError: one sentence about the first thing that is wrong.
    """
    path = find_recipe(recipe_name)
    recipe = load_recipe(ForgetRecipe, recipe_name, overrides)
    method_class = find_method(recipe.method.name)
    values, dropped = resolve_keys(recipe, method_class.reads, alternates=method_class.alternates(recipe.method))
    for name in (recipe.optimizers.forget, recipe.optimizers.retain):
        check_optimizer_name(name)
    parse_seeds(recipe.sampling.seeds)
    train_set, _ = load_dataset(recipe.data)
    forget_classes = resolve_classes([*recipe.data.forget_classes, *class_names], train_set.id2label)
    if recipe.model.pretrain is not None:  # named recipes are checked now, and kept beside recipe.yaml by bare name
        load_recipe(PretrainRecipe, recipe.model.pretrain, beside=path)
        values["model"]["pretrain"] = Path(recipe.model.pretrain).name
    if not Path(recipe.evaluation.classifier).is_dir():
        load_recipe(ClassifierRecipe, recipe.evaluation.classifier, beside=path)
        values["evaluation"]["classifier"] = Path(recipe.evaluation.classifier).name
    values["data"]["forget_classes"] = [train_set.id2label[i] for i in forget_classes]
    accelerator = make_accelerator(recipe.run)
    method = method_class(
        recipe.method, forget_classes, len(train_set.id2label), lambda x: accelerator.reduce(x.mean(), "mean")
    )
    if method_class.from_scratch and recipe.model.pretrain is None:
        raise InputError("Retraining needs a pretraining recipe; give model.pretrain.")
    if dropped and accelerator.is_main_process:
        say(f"{recipe.method.name} does not read {', '.join(dropped)}.")
    return Experiment(recipe, path, values, accelerator, train_set, forget_classes, method)


def forget(
    experiment: Experiment,
    out: Path,
    *,
    mask_path: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stop_after: int | None = None,
) -> Results:
    """Forgets the classes of the experiment, samples before and after, evaluates and reports; all in `out`.

    Raises:
        InputError: before anything is written, if something does not fit.
        Stopped: after `stop_after` steps or a signal, with the state saved for `resume`.
    """
    accelerator, recipe = experiment.accelerator, experiment.recipe
    seconds: dict[str, float] = {}
    _check_out(out, experiment, resume, overwrite)
    with _timed(seconds, "base model"):
        model = obtain_model(recipe.model, experiment.recipe_path, accelerator)
    _check_model(experiment, model)
    with _timed(seconds, "classifier"):
        classifier = obtain_classifier(recipe.evaluation.classifier, experiment.recipe_path, accelerator)
    match_classes(classifier, model.id2label)
    mask = load_mask(mask_path, model.network, _labels(experiment)) if mask_path else None
    base_sha256 = weights_sha256(model.network.state_dict())
    if accelerator.is_main_process:
        _claim(out, experiment, resume)
        origin = describe_origin(accelerator.device) | {
            "recipe_sha256": experiment.recipe_sha256,
            "seed": recipe.run.seed,
            "base_model_sha256": base_sha256,
            "classifier_sha256": classifier.sha256,
        }
        write_json(out / "provenance.json", origin)
    accelerator.wait_for_everyone()

    model.prepare(accelerator)
    forget_set, retain_set = split(experiment.train_set, experiment.forget_classes)
    if accelerator.is_main_process:
        say(f"forget set: {len(forget_set)} images of {', '.join(experiment.forget_names)}; "
            f"retain set: {len(retain_set)} images")  # fmt: skip
    with _timed(seconds, "saliency"):
        if recipe.method.mask is not None and "mask" in experiment.method.reads:
            mask = mask or saliency(experiment, model)
            if accelerator.is_main_process:
                say(f"mask: {density(mask):.1%} of the weights")
                save_mask(out / "mask.safetensors", mask, mask_provenance(experiment, base_sha256))
        else:
            mask = None
    with _timed(seconds, "forgetting"):
        if experiment.method.from_scratch:
            model = _retrain(experiment, retain_set, out, stop_after)
        else:
            _forget(experiment, model, mask, forget_set, retain_set, out, base_sha256, stop_after)
    save_model(model, out / "model", accelerator)
    if accelerator.is_main_process:
        write_json(out / "provenance.json", origin | {"model_sha256": weights_sha256(model.network.state_dict())})
    return evaluate_run(experiment, out, seconds)


def _forget(
    experiment: Experiment,
    model: ConditionalDDPM,
    mask: Mask | None,
    forget_set: ImageSet,
    retain_set: ImageSet,
    out: Path,
    base_sha256: str,
    stop_after: int | None,
) -> None:
    settings, network = experiment.recipe.method, model.network
    mask = {name: m.to(experiment.accelerator.device) for name, m in mask.items()} if mask else None
    ema = None if settings.ema_decay is None else EMA(network, settings.ema_decay)
    network.train()
    run_phases(
        network,
        make_optimizers(experiment, model, mask),
        phases(
            experiment.method,
            model,
            experiment.batches(model, forget_set, "forget"),
            experiment.batches(model, retain_set, "retain"),
            mask,
        ),
        settings.num_steps,
        folder=out,
        identity=_digest(experiment.recipe_sha256, base_sha256, weights_sha256(mask) if mask else ""),
        title=f"forgetting {', '.join(experiment.forget_names)}",
        accelerator=experiment.accelerator,
        ema=ema,
        stop_after=stop_after,
    )
    if ema is not None:
        network.load_state_dict(ema.state_dict())


def _retrain(experiment: Experiment, retain_set: ImageSet, out: Path, stop_after: int | None) -> ConditionalDDPM:
    assert experiment.recipe.model.pretrain is not None  # open_experiment has checked it
    recipe = load_recipe(PretrainRecipe, experiment.recipe.model.pretrain, beside=experiment.recipe_path)
    identity = _digest(experiment.recipe_sha256, recipe_sha256(recipe.model_dump(mode="json")), retain_set.sha256)
    return pretrain(recipe, retain_set, experiment.accelerator, out, identity, stop_after)


def make_optimizers(experiment: Experiment, model: ConditionalDDPM, mask: Mask | None) -> DualOptim:
    """The recipe's pair of optimizers, or one for both phases; weights off the mask stay where only masked steps go."""
    names, settings, method = experiment.recipe.optimizers, experiment.recipe.method, experiment.method
    parameters = dict(model.network.named_parameters())
    retain = make_optimizer(names.retain, parameters.values(), settings.retain_lr)
    if mask and method.masks_retain and names.retain not in ELEMENTWISE:
        freeze_off_mask(retain, parameters, mask)
    if names.mode == "shared" or not method.alternates(settings):
        return DualOptim(retain, retain)
    forget = make_optimizer(names.forget, parameters.values(), settings.forget_lr)
    if mask and names.forget not in ELEMENTWISE:
        freeze_off_mask(forget, parameters, mask)
    return DualOptim(forget, retain)


def saliency(experiment: Experiment, model: ConditionalDDPM) -> Mask:
    """The mask the recipe asks for, on the CPU or the model's device; kept by its inputs for the next time.

    Raises:
        InputError: if the recipe asks for none.
    """
    config, accelerator = experiment.recipe.method.mask, experiment.accelerator
    if config is None:
        raise InputError("The recipe has no method.mask; set method.mask.kind=fisher_ratio or top_fraction.")
    base_sha256 = weights_sha256(model.network.state_dict())
    provenance = mask_provenance(experiment, base_sha256)
    path = cache_folder() / "masks" / f"{_digest(repr(sorted(provenance.items())))[:16]}.safetensors"
    if path.is_file():
        return load_mask(path, model.network, _labels(experiment))
    sets = split(experiment.train_set, experiment.forget_classes)
    forget_batches, retain_batches = (
        experiment.batches(model, part, f"saliency-{name}", config.batch_size)
        for part, name in zip(sets, ("forget", "retain"), strict=True)
    )
    one_pass = [-(-len(part) // config.batch_size) for part in sets]
    num_batches = (config.num_batches or one_pass[0], config.num_batches or one_pass[1])

    def progress(total: int, title: str) -> Iterator[int]:
        return iter(tqdm(range(total), desc=title, disable=not accelerator.is_main_process))

    mask = compute_mask(config, model, forget_batches, retain_batches, num_batches, progress)
    if accelerator.is_main_process:
        save_mask(path, mask, provenance)
    accelerator.wait_for_everyone()
    return mask


def mask_provenance(experiment: Experiment, base_sha256: str) -> dict[str, Any]:
    """What a mask was made from."""
    config = experiment.recipe.method.mask
    return {
        "model_sha256": base_sha256,
        "data_sha256": experiment.train_set.sha256,
        "forget_classes": sorted(experiment.forget_names),
        "seed": experiment.recipe.run.seed,
        "mask": config.model_dump(mode="json") if config else None,
    }


def sample_both(
    experiment: Experiment, out: Path, seconds: dict[str, float] | None = None
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """uint8 images by class id of the original and of the unlearned model under equal seeds.

    The original's are kept in the cache for every run that starts from it, the unlearned model's in the run folder.
    """
    accelerator, settings = experiment.accelerator, experiment.recipe.sampling
    original = obtain_model(experiment.recipe.model, experiment.recipe_path, accelerator)
    unlearned = load_model(out / "model", accelerator.device)
    class_ids = list(experiment.train_set.id2label)
    drawn = []
    for name, model in (("original", original), ("unlearned", unlearned)):
        sha = weights_sha256(model.network.state_dict())
        key = _digest(repr(describe(sha, class_ids, settings)))
        folder = cache_folder() / "samples" / key[:16] if name == "original" else out / "samples"
        model.prepare(accelerator)
        with _timed({} if seconds is None else seconds, title := f"sampling, {name}"):
            drawn.append(draw_samples(folder, model, sha, class_ids, settings, accelerator, title))
    return drawn[0], drawn[1]


def evaluate_run(experiment: Experiment, out: Path, seconds: dict[str, float] | None = None) -> Results:
    """Scores the original and the unlearned model under equal seeds; writes results, grid and report into `out`."""
    accelerator, recipe = experiment.accelerator, experiment.recipe
    seconds = {} if seconds is None else seconds
    classifier = obtain_classifier(recipe.evaluation.classifier, experiment.recipe_path, accelerator)
    before, after = sample_both(experiment, out, seconds)
    results: Results = {}
    if accelerator.is_main_process:
        id2label, forgotten = experiment.train_set.id2label, experiment.forget_classes
        _, retain_set = split(experiment.train_set, forgotten)
        with _timed(seconds, "metrics"):
            for name, images in (("original", before), ("unlearned", after)):
                results[name] = evaluate(images, classifier, id2label, forgotten, retain_set.images)
        protocol = protocol_of(recipe.sampling, classifier, experiment.train_set)
        results |= {
            "forgotten": experiment.forget_names,
            "protocol": protocol,
            "protocol_hash": protocol_sha256(protocol),
            "classifier": {"accuracy": classifier.info.accuracy, "n_held_out": classifier.info.n_held_out},
            "seconds": {part: round(value, 1) for part, value in seconds.items()},
        }
        write_json(out / "results.json", results)
        draw_grid(out / "grid.png", before, after, id2label, forgotten)
        write_report(out)
    accelerator.wait_for_everyone()
    return results


def _check_out(out: Path, experiment: Experiment, resume: bool, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "recipe.yaml").is_file():
        raise InputError(f"{out} exists and is not a run folder; choose another --out.")
    if overwrite:
        return
    if not resume:
        raise InputError(f"The run folder {out} exists; use --resume to go on, --overwrite, or another --out.")
    stored = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    if recipe_sha256(stored) != experiment.recipe_sha256:
        raise InputError(f"The run in {out} was started with another recipe or class; use --overwrite to start anew.")


def _check_model(experiment: Experiment, model: ConditionalDDPM) -> None:
    if model.id2label != experiment.train_set.id2label:
        raise InputError(
            f"The model draws {len(model.id2label)} classes ({', '.join(list(model.id2label.values())[:3])}, ...), "
            f"the data set {experiment.recipe.data.name!r} holds others; use data with the model's classes."
        )
    shape = tuple(experiment.train_set.images.shape[1:])
    if model.x_0_shape != shape:
        raise InputError(f"The model draws images of shape {model.x_0_shape}, the data set holds {shape}.")


def _claim(out: Path, experiment: Experiment, resume: bool) -> None:
    """Makes the run folder: the resolved recipe and the recipes it names, so that it can be evaluated anywhere."""
    if out.exists() and not resume:
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "recipe.yaml") as beside:
        beside.write_text(yaml.safe_dump(experiment.values, sort_keys=False), encoding="utf-8")
    beside, model, judge = experiment.recipe_path, experiment.recipe.model, experiment.recipe.evaluation.classifier
    if model.pretrain is not None:
        _write_recipe(out / Path(model.pretrain).name, load_recipe(PretrainRecipe, model.pretrain, beside=beside))
    if not Path(judge).is_dir():
        _write_recipe(out / Path(judge).name, load_recipe(ClassifierRecipe, judge, beside=beside))


def _write_recipe(path: Path, recipe: PretrainRecipe | ClassifierRecipe) -> None:
    with atomic_path(path) as beside:
        beside.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def _labels(experiment: Experiment) -> dict[int, str]:
    return dict(zip(experiment.forget_classes, experiment.forget_names, strict=True))


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + perf_counter() - start


def _digest(*parts: str) -> str:
    return sha256(repr(parts).encode()).hexdigest()
