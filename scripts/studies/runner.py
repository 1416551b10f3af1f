"""Many short forgetting runs, each scored with few images: what most studies in this folder are made of.

A cell is a recipe, a class, a seed and overrides. Cells run on one thread each, several processes side by side. Every
finished cell is written at once, so a study that was stopped continues where it was. No run folders are left behind.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from tqdm import tqdm

from tables import read_json, write_json

FORGET_IMAGES, RETAIN_IMAGES = 200, 50  # drawn of the forgotten label, and of each other one
SAMPLING = ("sampling.scheduler=ddim", "sampling.num_inference_steps=25", "sampling.batch_size=50")


@dataclass(frozen=True)
class Cell:
    """One run: `group` names what is compared, `recipe` and `overrides` make it so."""

    group: str
    recipe: str
    class_name: str
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Equal for cells that are the same run, whatever group they stand in."""
        return json.dumps([self.recipe, self.class_name, self.seed, *self.overrides])

    @property
    def words(self) -> tuple[str, ...]:
        """Of the command line `dualoptim forget`."""
        return self.recipe, *self.overrides, f"run.seed={self.seed}", "--class", self.class_name

    @classmethod
    def of(cls, result: dict[str, Any]) -> "Cell":
        """The cell that a stored result came from."""
        names = ("group", "recipe", "class_name", "seed")
        return cls(**{name: result[name] for name in names}, overrides=tuple(result["overrides"]))


def run_cell(cell: Cell) -> dict[str, Any]:
    """Forgets in memory and scores: FA, RA, KID beside the original's, and what the loop logged last."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return asdict(cell) | _run(cell)
    finally:
        torch.set_num_threads(threads)


def _run(cell: Cell) -> dict[str, Any]:
    from dualoptim_diffusion.runs.forget import prepare_forgetting
    from dualoptim_diffusion.runs.models import open_base_model
    from dualoptim_diffusion.unlearning.saliency import density

    started = perf_counter()
    experiment = _open(cell.recipe, cell.class_name, (f"run.seed={cell.seed}", *cell.overrides))
    forgetting = prepare_forgetting(experiment, open_base_model(experiment))
    last, cosines, stopped = _forget(forgetting)
    forgot = perf_counter()
    figures = _score(experiment, forgetting.model) if stopped is None else None
    return {
        "after": figures,
        "before": _original(cell.recipe, cell.class_name, overrides_of_original(cell)),
        "stopped": stopped,
        "last": last,
        "mean_gradient_cosine": sum(cosines) / len(cosines) if cosines else None,
        "mask_density": density(forgetting.mask) if forgetting.mask else None,
        "base_sha256": forgetting.base_sha256,
        "seconds": {"forgetting": round(forgot - started, 1), "scoring": round(perf_counter() - forgot, 1)},
    }


def _open(recipe: str, class_name: str, overrides: Sequence[str]) -> Any:
    """The experiment on a CPU."""
    from accelerate.state import AcceleratorState

    from dualoptim_diffusion.runs.experiment import open_experiment

    AcceleratorState._reset_state(reset_partial_state=True)
    return open_experiment(recipe, [class_name], [*SAMPLING, "run.device=cpu", *overrides])


def _forget(forgetting: Any) -> tuple[dict[str, float], list[float], str | None]:
    """What the last step logged, the cosine of each step's gradients, and why the loop stopped early, if it did."""
    from dualoptim_diffusion.core.errors import NonFiniteError
    from dualoptim_diffusion.unlearning.loop import unlearn

    last: dict[str, float] = {}
    cosines: list[float] = []
    stopped = None

    def on_step(finished: int, record: dict[str, float]) -> None:
        last.update(record)
        cosines.append(record.get("gradient_cosine", 0.0))

    training = forgetting.training()
    network, ema = training.network, training.ema
    try:
        unlearn(network, training.optimizers, training.phases, training.num_steps, ema=ema, on_step=on_step)
    except NonFiniteError as error:  # a result too: the weights are those before the bad step
        stopped = str(error)
    if ema is not None:
        network.load_state_dict(ema.state_dict())
    return last, cosines, stopped


def overrides_of_original(cell: Cell) -> tuple[str, ...]:
    """Those that change the original model or what it draws."""
    return tuple(o for o in cell.overrides if o.startswith(("model.", "sampling.", "evaluation.")))


def _score(experiment: Any, model: Any) -> dict[str, Any]:
    from dualoptim_diffusion.drawing.samples import LazySamples
    from dualoptim_diffusion.runs.evaluate import open_evaluation

    setup = open_evaluation(experiment)
    seeds = {
        label: range(FORGET_IMAGES if label in experiment.forget_classes else RETAIN_IMAGES)
        for label in experiment.labels
    }
    samples = LazySamples(model, seeds, setup.settings, experiment.accelerator)
    results = setup.measure(experiment, samples).figures
    return {
        "FA": results["FA"]["value"],
        "FA_none": results.get("FA_none", results["FA"])["value"],
        "RA": results["RA"]["value"],
        "KID": results["kid"]["value"],
        "degenerate_rate": results["degenerate"]["forgotten"]["value"],
        "n": {"FA": results["FA"]["n"], "RA": results["RA"]["n"]},
        "drawn": {name: results["drawn"][name] for name in experiment.forget_names},
        "classifier_sha256": setup.classifier.sha256,
    }


@lru_cache(maxsize=64)
def _original(recipe: str, class_name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """The same figures of the base model."""
    from dualoptim_diffusion.runs.models import open_base_model

    experiment = _open(recipe, class_name, overrides)
    model, _ = open_base_model(experiment)
    model.prepare(experiment.accelerator)
    return _score(experiment, model)


def write_bases(folder: Path, seeds: Iterable[int]) -> list[str]:
    """Recipes that differ from the digits' own base model in their seed; their paths from the present folder."""
    import yaml

    from dualoptim_diffusion.core.recipes import recipe_folder

    folder.mkdir(parents=True, exist_ok=True)
    content = yaml.safe_load((recipe_folder() / "digits_pretrain.yaml").read_text(encoding="utf-8"))
    paths = []
    for seed in seeds:
        path = folder / f"digits_pretrain_{seed}.yaml"
        path.write_text(yaml.safe_dump(content | {"run": {"seed": seed}}, sort_keys=False), encoding="utf-8")
        paths.append(path.as_posix())
    return paths


def told(result: dict[str, Any]) -> str:
    """A finished cell in a few words."""
    after = result["after"] or {}
    return f"{result['group']} {result['class_name']} seed {result['seed']}: " + (
        f"FA {after['FA']:.1%} RA {after['RA']:.1%} KID {after['KID']:.2g}" if after else "stopped"
    )


def run_study(
    cells: Sequence[Any],
    out: Path,
    about: dict[str, Any],
    jobs: int,
    work: Callable[[Any], dict[str, Any]] = run_cell,
    of: Callable[[dict[str, Any]], Any] = Cell.of,
    brief: Callable[[dict[str, Any]], str] = told,
) -> list[dict[str, Any]]:
    """Results of all cells, in their order; `out` (JSON) holds them with `about`, finished ones are not run again.

    With one job the cells run in this process. With none nothing is run: the results are those of the finished cells.

    Args:
        work: makes the result of a cell; `of` makes the cell of a result, which has the same `key`.
    """
    known = {of(result).key: result for result in (read_json(out)["cells"] if out.is_file() else [])}
    waiting = [cell for cell in dict.fromkeys(cells) if cell.key not in known]
    if waiting and jobs:
        bar = tqdm(_run_all(waiting, jobs, work), total=len(waiting), unit="run")
        for result in bar:
            known[of(result).key] = result
            write_json(out, about | {"cells": list(known.values())})
            bar.set_postfix_str(brief(result))
    found = [(cell, known[cell.key]) for cell in cells if cell.key in known]
    return [
        result | ({"group": cell.group} if "group" in result else {}) for cell, result in found
    ]  # groups share runs


def _run_all(cells: Sequence[Any], jobs: int, work: Callable[[Any], dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Results as they come."""
    if jobs == 1:
        yield from map(work, cells)
        return
    with get_context("spawn").Pool(jobs, maxtasksperchild=50) as pool:
        yield from pool.imap_unordered(work, cells)
