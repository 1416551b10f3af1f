"""Many short forgetting runs, each scored with few images: what the studies in this folder are made of.

A cell is a class, a seed and overrides of a recipe. Cells run on one thread each, several processes side by side; every
finished cell is written at once, so a study goes on where it was stopped. No run folders are left behind.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

from tqdm import tqdm

AIM_FA, AIM_FD = 0.02, 1.25  # a run that forgets and keeps: FA at most this, FD at most so many times the original's
FORGET_IMAGES, RETAIN_IMAGES = 200, 50  # drawn of the forgotten label, and of each other one
SAMPLING = ("sampling.scheduler=ddim", "sampling.num_inference_steps=25", "sampling.batch_size=50")


@dataclass(frozen=True)
class Cell:
    """One run: `group` names what is compared, `overrides` make it so."""

    group: str
    recipe: str
    class_name: str
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return json.dumps([self.recipe, self.class_name, self.seed, *self.overrides])


def run_cell(cell: Cell) -> dict[str, Any]:
    """Forgets in memory and scores: FA, RA, FD beside the original's, and what the loop logged last."""
    import torch

    torch.set_num_threads(1)
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    from dualoptim_diffusion.core.errors import NonFiniteError
    from dualoptim_diffusion.models import model_sha256
    from dualoptim_diffusion.optim.ema import EMA
    from dualoptim_diffusion.runs.experiment import open_experiment
    from dualoptim_diffusion.runs.forget import make_optimizers
    from dualoptim_diffusion.runs.mask import obtain_mask
    from dualoptim_diffusion.runs.obtain import obtain_model
    from dualoptim_diffusion.runs.replay import replay_set
    from dualoptim_diffusion.unlearning.loop import unlearn
    from dualoptim_diffusion.unlearning.methods import phases
    from dualoptim_diffusion.unlearning.saliency import density

    started = perf_counter()
    overrides = [*SAMPLING, "run.device=cpu", f"run.seed={cell.seed}", *cell.overrides]
    experiment = open_experiment(cell.recipe, [cell.class_name], overrides)
    recipe, method = experiment.recipe, experiment.method
    model = obtain_model(recipe.model, experiment.recipe_path, experiment.accelerator)
    base_sha256 = model_sha256(model)
    experiment.prepare(model)
    forget_set, retain_set = experiment.training_sets(model)
    if method.replays:
        retain_set = replay_set(experiment, model, base_sha256)
    mask = obtain_mask(experiment, model, None)
    ema = None if recipe.method.ema_decay is None else EMA(model.network, recipe.method.ema_decay)
    last: dict[str, float] = {}
    cosines: list[float] = []

    def on_step(finished: int, record: dict[str, float]) -> None:
        last.update(record)
        cosines.append(record.get("gradient_cosine", 0.0))

    method.prepare(model, retain_set)
    model.network.train()
    try:
        unlearn(
            model.network,
            make_optimizers(experiment, model, mask),
            phases(
                method,
                model,
                experiment.batches(model, forget_set, "forget"),
                experiment.batches(model, retain_set, "retain"),
                mask,
            ),
            method.num_steps,
            ema=ema,
            on_step=on_step,
        )
        stopped = None
    except NonFiniteError as error:  # a result too: the weights are those before the bad step
        stopped = str(error)
    if ema is not None:
        model.network.load_state_dict(ema.state_dict())
    forgot = perf_counter()
    figures = _score(experiment, model) if stopped is None else None
    return asdict(cell) | {
        "after": figures,
        "before": _original(cell.recipe, cell.class_name, overrides_of_sampling(cell)),
        "stopped": stopped,
        "last": last,
        "mean_gradient_cosine": sum(cosines) / len(cosines) if cosines else None,
        "mask_density": density(mask) if mask else None,
        "base_sha256": base_sha256,
        "seconds": {"forgetting": round(forgot - started, 1), "scoring": round(perf_counter() - forgot, 1)},
    }


def overrides_of_sampling(cell: Cell) -> tuple[str, ...]:
    """Those that change what the original model draws, too."""
    return tuple(o for o in cell.overrides if o.startswith(("sampling.", "evaluation.")))


def _score(experiment: Any, model: Any) -> dict[str, Any]:
    from dualoptim_diffusion.drawing.samples import Draws
    from dualoptim_diffusion.evaluation import evaluate
    from dualoptim_diffusion.evaluation.reference import cached_reference
    from dualoptim_diffusion.runs.evaluate import open_bench

    bench = open_bench(experiment)
    seeds = {
        label: range(FORGET_IMAGES if label in experiment.forget_classes else RETAIN_IMAGES)
        for label in experiment.labels
    }
    results = evaluate(
        Draws(model, seeds, bench.settings, experiment.accelerator),
        bench.classifier,
        experiment.labels,
        experiment.forget_classes,
        cached_reference(bench.reference, bench.extractor),
        extractor=bench.extractor,
    )
    return {
        "FA": results["FA"]["value"],
        "RA": results["RA"]["value"],
        "FD": results["frechet"]["value"],
        "degenerate_rate": results["degenerate_rate"],
        "n": {"FA": results["FA"]["n"], "RA": results["RA"]["n"]},
        "drawn": {name: results["drawn"][name] for name in experiment.forget_names},
        "classifier_sha256": bench.classifier.sha256,
    }


@lru_cache(maxsize=64)
def _original(recipe: str, class_name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """The same figures of the base model."""
    from accelerate.state import AcceleratorState

    from dualoptim_diffusion.runs.experiment import open_experiment
    from dualoptim_diffusion.runs.obtain import obtain_model

    AcceleratorState._reset_state(reset_partial_state=True)
    experiment = open_experiment(recipe, [class_name], [*SAMPLING, "run.device=cpu", *overrides])
    model = obtain_model(experiment.recipe.model, experiment.recipe_path, experiment.accelerator)
    model.prepare(experiment.accelerator)
    return _score(experiment, model)


def summarise(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of FA, RA and the FD ratio over runs, and the share of runs that met the aim."""
    results = list(results)
    finished = [r for r in results if r["after"]]
    columns = {
        "FA": [r["after"]["FA"] for r in finished],
        "RA": [r["after"]["RA"] for r in finished],
        "FD ratio": [r["after"]["FD"] / r["before"]["FD"] for r in finished],
    }
    return {
        "runs": len(results),
        "stopped": len(results) - len(finished),
        "met": sum(fa <= AIM_FA and fd <= AIM_FD for fa, fd in zip(columns["FA"], columns["FD ratio"], strict=True)),
    } | {
        name: {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else 0.0, "max": max(values)}
        for name, values in columns.items()
        if values
    }


def row(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def summary_row(summary: dict[str, Any]) -> list[str]:
    """FA, RA, FD ratio and how many runs met the aim, for a table."""
    fa, ra, fd = (summary[name] for name in ("FA", "RA", "FD ratio"))
    return [
        f"{fa['mean']:.1%} ± {100 * fa['sd']:.1f} (max {fa['max']:.1%})",
        f"{ra['mean']:.1%} ± {100 * ra['sd']:.1f}",
        f"{fd['mean']:.2f} ± {fd['sd']:.2f} (max {fd['max']:.2f})",
        f"{summary['met']} of {summary['runs']}",
    ]


def run_study(cells: Sequence[Cell], out: Path, about: dict[str, Any], jobs: int) -> list[dict[str, Any]]:
    """Results of all cells, in their order; `out` (JSON) holds them with `about`, finished ones are not run again.

    With no jobs nothing is run: the results are those of the finished cells.
    """
    known = {_key(result): result for result in _stored(out)}
    waiting = [cell for cell in dict.fromkeys(cells) if cell.key not in known]
    if waiting and jobs:
        with get_context("spawn").Pool(jobs, maxtasksperchild=50) as pool, tqdm(total=len(waiting), unit="run") as bar:
            for result in pool.imap_unordered(run_cell, waiting):
                known[_key(result)] = result
                _store(out, about, known.values())
                after = result["after"] or {}
                bar.set_postfix_str(
                    f"{result['group']} {result['class_name']} seed {result['seed']}: "
                    + (f"FA {after['FA']:.1%} RA {after['RA']:.1%} FD {after['FD']:.2f}" if after else "stopped")
                )
                bar.update()
    return [known[cell.key] | {"group": cell.group} for cell in cells if cell.key in known]


def origin(results: Sequence[dict[str, Any]]) -> str:
    """How many runs there are and from how many base models: one recipe rounds differently on different machines."""
    bases = {result["base_sha256"][:12] for result in results}
    return (
        f"{len(results)} runs from {len(bases)} base model{'s' if len(bases) > 1 else ''} ({', '.join(sorted(bases))})."
    )


def _key(result: dict[str, Any]) -> str:
    return Cell(
        **{k: result[k] for k in ("group", "recipe", "class_name", "seed")}, overrides=tuple(result["overrides"])
    ).key


def _stored(out: Path) -> list[dict[str, Any]]:
    return json.loads(out.read_text(encoding="utf-8"))["cells"] if out.is_file() else []


def _store(out: Path, about: dict[str, Any], results: Iterable[dict[str, Any]]) -> None:
    from dualoptim_diffusion.files.json_files import write_json

    write_json(out, about | {"cells": list(results)})
