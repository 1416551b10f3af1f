"""An experiment on photographs within a budget of minutes: two judges, a base model, and forgetting cells, most telling
first, until the time is up. Everything happens in one process. Results are written after every cell, so a stopped run
is a result; a further call goes on, and another seed adds a base model to the tables.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, parse, parser
from dualoptim_diffusion.core.classes import file_name
from machine import flop_of_forward, matmul_rates, synchronise, where
from studies.experiment_tables import DUAL, Found, tabulate
from studies.photographs import Clock, Scale, Study, named_folders
from studies.runner import Cell

START = perf_counter()
BEFORE_SAMPLERS, SAMPLERS = 15, 0.25  # cells that come before the comparison of samplers; its share of the time
IN_GRIDS = 3
BASE_ENDS, BASE_LEAST = 0.64, 0.2  # of the time: when the base model is trained, and how long at least
TRIAL = 0.02  # of the time, for each rate that is tried
WARM_UP, TIMED = 10, 60  # training steps whose time tells how many fit
LEAST_STEP = 1e-3  # seconds: less would be a wrong clock
TOY_SECONDS = 0.2


@dataclass(frozen=True)
class Stage:
    """What an experiment is about.

    Attributes:
        stem: of the files of results.
        scales: by name; the first is the usual one, and `toy` is among them.
        classes: of the toy scale.
        plan: from the names of classes and the cells that are finished, all cells, most telling first; each is asked
            for after those before it are finished, and may depend on them.
    """

    stem: str
    title: str
    scales: Mapping[str, Scale]
    classes: tuple[str, ...]
    plan: Callable[[Sequence[str], Sequence[Found]], Iterator[Cell]]


class Budget:
    """Seconds since the script was started."""

    def __init__(self, minutes: float) -> None:
        self.whole = 60 * minutes

    @property
    def spent(self) -> float:
        return perf_counter() - START

    @property
    def left(self) -> float:
        return self.whole - self.spent


def steps_in(study: Study, seconds: float, lr: float, weights: dict[str, torch.Tensor]) -> int:
    """Training steps that fit, by what more of them take; the weights are put back."""

    def taken(num_steps: int) -> float:
        synchronise()
        start = perf_counter()
        study.train_base(num_steps, lr, "timing")
        synchronise()
        return perf_counter() - start

    taken(WARM_UP)
    begun = taken(WARM_UP)  # with what a training takes however long it is
    each = (taken(WARM_UP + TIMED) - begun) / TIMED
    study.restore(weights)
    return max(2, int((seconds - begun) / max(each, LEAST_STEP)))


def choose_rate(study: Study, rates: Sequence[float], seconds: float, weights: dict[str, torch.Tensor]) -> list[Found]:
    """Held-out loss of a short training at each rate; from the same weights."""
    num_steps, tried = steps_in(study, seconds, rates[0], weights), []
    for lr in rates:
        ema = study.train_base(num_steps, lr, f"rate {lr:g}")
        tried.append({"lr": lr, "num_steps": num_steps, "held_out_loss": study.held_out_loss(ema.state_dict())})
        print(f"rate {lr:g}: held-out loss {tried[-1]['held_out_loss']:.5f} after {num_steps} steps", flush=True)
        study.restore(weights)
    return tried


def train_base(study: Study, rates: Sequence[float], seconds: Callable[[], float], trial: float) -> Found:
    """Trains the base model for so many seconds at the best of the rates.

    The network ends with its last or its averaged weights, whichever have the lower loss on held-out images.
    """
    fresh = study.keep_weights()
    tried = choose_rate(study, rates, trial, fresh) if len(rates) > 1 else []
    lr = min(tried, key=lambda part: part["held_out_loss"])["lr"] if tried else rates[0]
    num_steps = steps_in(study, seconds(), lr, fresh)
    synchronise()
    start = perf_counter()
    ema = study.train_base(num_steps, lr)
    synchronise()
    taken = perf_counter() - start
    raw, averaged = study.keep_weights(), ema.state_dict()
    losses = {"raw": study.held_out_loss(raw), "averaged": study.held_out_loss(averaged)}
    study.restore(min((raw, averaged), key=lambda weights: losses["raw" if weights is raw else "averaged"]))
    images = num_steps * study.scale.batch_size
    return {
        "rates_tried": tried, "lr": lr, "num_steps": num_steps, "batch_size": study.scale.batch_size,
        "epochs": images / len(study.train), "held_out_loss": losses, "seconds": taken,
        "images_per_second": images / taken, "weights": {"raw": raw, "averaged": averaged},
    }  # fmt: skip


def obtain_base(study: Study, work: Path, rates: Sequence[float], seconds: Callable[[], float], trial: float) -> Found:
    """The same, from the folder where it was trained before."""
    stem = work / f"base_{study.seed}"
    about = stem.with_suffix(".json")
    if about.is_file():
        found: Found = tables.read_json(about)
        chosen = min(found["held_out_loss"], key=lambda name: float(found["held_out_loss"][name]))
        study.restore(load_file(work / f"base_{study.seed}_{chosen}.safetensors", device=str(study.device)))
        return found
    found = train_base(study, rates, seconds, trial)
    for name, weights in found.pop("weights").items():
        save_file({k: v.contiguous() for k, v in weights.items()}, work / f"base_{study.seed}_{name}.safetensors")
    tables.write_json(about, found)
    return found


class Results:
    """The file of results: one entry a base model, each with its cells; written after every change."""

    def __init__(self, stem: Path, title: str, command: str) -> None:
        self.stem, self.title, self.command = stem, title, command
        path = stem.with_suffix(".json")
        self.bases: list[Found] = tables.read_json(path)["bases"] if path.is_file() else []

    def open(self, sha256: str) -> Found:
        """The entry of a base model."""
        for base in self.bases:
            if base["sha256"] == sha256:
                return base
        self.bases.append({"sha256": sha256, "cells": [], "seconds": {}})
        return self.bases[-1]

    def write(self) -> str:
        text = tabulate(self.title, self.bases)
        tables.write(self.stem, {"bases": self.bases}, text)
        return text


def key(cell: Cell | Found) -> tuple[Any, ...]:
    part = cell if isinstance(cell, dict) else vars(cell)
    return part["group"], part["class_name"], part["seed"]


class Bench:
    """Runs cells on the base model that the study's network holds, and writes down each."""

    def __init__(self, study: Study, base: Found, results: Results, clock: Clock) -> None:
        self.study, self.base, self.results, self.clock = study, base, results, clock
        self.weights = study.keep_weights()
        with clock.part("masks"):
            study.fishers  # noqa: B018, made once
        with clock.part("drawing of the base model"):
            self.before = study.draw(dict.fromkeys(study.id2label, study.scale.of_base))
        self.scored: dict[int, Found] = {}  # the base model's figures beside those of each forgotten class
        self.slowest, self.grids = 0.0, 0

    def run(self, cells: Iterable[Cell], budget: Budget) -> None:
        """Those that are not there yet, while there is time for one more."""
        for cell in cells:
            if key(cell) in map(key, self.base["cells"]):
                continue
            if budget.left < 1.3 * self.slowest:
                break
            start = perf_counter()
            found = self.measure(cell)
            self.base["cells"].append(found)
            self.clock.write_to(self.base)
            self.base["peak_bytes"] = peak_bytes()
            self.results.write()
            self.slowest = max(self.slowest, perf_counter() - start)
            print(f"{budget.spent:.0f} s: {cell.group}, {cell.class_name}, seed {cell.seed}: {told(found)}", flush=True)

    def measure(self, cell: Cell) -> Found:
        """Forgets, draws and scores; the network then has the base model's weights again."""
        study, label = self.study, self.study.label_of(cell.class_name)
        found = vars(cell) | study.forget(cell)
        start = perf_counter()
        counts = {i: study.scale.forgotten if i == label else study.scale.retained for i in study.id2label}
        after = study.draw(counts)
        drawn = perf_counter()
        before = {i: images[: counts[i]] for i, images in self.before.items()}
        if label not in self.scored:
            self.scored[label] = study.judges.score(before, [label])
        found |= {"after": study.judges.score(after, [label]), "before": self.scored[label]}
        seconds = {"drawing": round(drawn - start, 2), "scoring": round(perf_counter() - drawn, 2)}
        found["seconds"] |= seconds
        if cell.group == DUAL and cell.seed == 0 and self.grids < IN_GRIDS:
            self.grids += 1
            stem, name = self.results.stem, file_name(cell.class_name).replace(" ", "_")
            draw_pair(stem.with_name(f"{stem.name}_{name}.png"), before, after, study.id2label, label)
        study.restore(self.weights)
        return found

    def compare_samplers(self, cell: Cell) -> None:
        """Distances of the base model and of what the cell makes of it, by each sampler of the scale, to 500 real
        images a class and to all."""
        study, label = self.study, self.study.label_of(cell.class_name)
        chosen = [i for i in study.id2label if i != label]
        real = [study.train.of_classes([i]).images[:] for i in chosen]
        self.base["samplers"] = []
        for model in ("base model", cell.group):
            if model == cell.group:
                study.forget(cell)
            for sampler, num_steps in study.scale.samplers:
                each = max(1, study.scale.drawn_at_once // len(chosen))
                with self.clock.part(f"{sampler} in {num_steps} steps, {model}"):
                    drawn = study.draw(dict.fromkeys(chosen, each), num_steps, sampler)
                for images in ([part[:500] for part in real], real):
                    self.base["samplers"].append(
                        {"model": model, "without": cell.class_name, "sampler": sampler, "num_steps": num_steps}
                        | study.judges.distance_to(images, drawn)
                    )
            self.clock.write_to(self.base)
            self.results.write()
        study.restore(self.weights)


def peak_bytes() -> int | None:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def told(cell: Found) -> str:
    """The figures of a cell in one line."""
    after, before = cell["after"], cell["before"]
    return (
        f"FA {tables.rate(after['FA'])}, RA {after['RA']['value']:.1%} (before {before['RA']['value']:.1%}), FD "
        f"{after['fd_infinity']['value']:.3g} (before {before['fd_infinity']['value']:.3g}), {cell['seconds']}"
    )


def draw_pair(path: Path, before: Any, after: Any, id2label: dict[int, str], label: int) -> None:
    """The grid before and after, without its two halves."""
    from dualoptim_diffusion.drawing.grids import draw_grid
    from dualoptim_diffusion.files.run_folder import grid_files

    draw_grid(path, before, after, id2label, [label])
    for half in grid_files(path)[1:]:
        half.unlink()


def describe(study: Study, trained: Found, rates: dict[str, float]) -> Found:
    """What the results say of a base model."""
    precision = study.recipe.run.precision
    one_image = torch.zeros(1, *study.model.x_0_shape), *(torch.zeros(1, dtype=torch.long) for _ in range(2))
    flop, rate = flop_of_forward(study.model.fresh_network(), *one_image), rates[precision]
    return where() | trained | study.autoencoder_quality | {
        "seed": study.seed,
        "passes": study.model.passes,
        "guidance_scale": study.scale.guidance_scale,
        "steps_of_drawing": study.scale.num_steps,
        "parameters": sum(p.numel() for p in study.network.parameters()),
        "flop_of_forward": flop,
        "matmul_rate": rate,
        "share_of_matmul_rate": 3 * flop * trained["images_per_second"] / rate,
        "seconds_of_training": trained["seconds"],
        "judges": study.judges.accuracies(),
    }  # fmt: skip


def run(stage: Stage, script: str, doc: str | None, words: Sequence[str] | None) -> None:
    """The experiment, as the command line of its script says."""
    options = parser(script, doc, scales=[name for name in stage.scales if name != "toy"])
    options.add_argument("--data", type=Path, help="folder with train/CLASS and test/CLASS or val/CLASS; not for toy")
    options.add_argument("--minutes", type=float, help="for everything [default: 10; toy: as long as it takes]")
    options.add_argument("--seed", type=int, default=0, help="of the base model [default: %(default)s]")
    options.add_argument(
        "--rates", type=float, nargs="+", default=[5e-4],
        help="learning rate of the base model; of several, the best after a short trial [default: 5e-4]",
    )  # fmt: skip
    options.add_argument("--cells", type=int, default=1000, help="at most so many [default: all]")
    options.add_argument("--work", type=Path, default=Path("runs") / stage.stem, help="[default: %(default)s]")
    arguments = parse(options, words)
    scale = stage.scales[arguments.scale]
    if arguments.toy:
        arguments.data, arguments.work = arguments.out / "data", arguments.out / "work"
        toy.write_photographs(arguments.data, stage.classes)
    if arguments.data is None:
        options.error("--data names the folder of photographs")
    scaled = "" if arguments.scale in (next(iter(stage.scales)), "toy") else f"_{arguments.scale}"
    work = arguments.work.resolve() / arguments.scale
    work.mkdir(parents=True, exist_ok=True)
    budget, clock = Budget(arguments.minutes or (60 if arguments.toy else 10)), Clock()
    results = Results(arguments.out / f"{stage.stem}{scaled}", stage.title, command_line(script, words))
    data = named_folders(arguments.data, work, scale.classes)
    with clock.part("reading the images" + (" and the autoencoder" if scale.autoencoder else "")):
        study = Study(data, scale, arguments.seed, work)
    with clock.part("judges and compilation"):
        study.prepare()
    rates = matmul_rates(small=arguments.toy)

    def seconds() -> float:
        return TOY_SECONDS if arguments.toy else max(BASE_LEAST * budget.whole, BASE_ENDS * budget.whole - budget.spent)

    trial = TOY_SECONDS if arguments.toy else TRIAL * budget.whole
    with clock.part("base model"):
        trained = obtain_base(study, work, arguments.rates, seconds, trial)
    base = results.open(study.sha256)
    base |= describe(study, trained, rates) | base  # as the run that trained it measured them
    base["commands"] = list(dict.fromkeys([*base.get("commands", []), results.command]))
    clock.write_to(base)
    names = list(study.id2label.values())[: 1 if arguments.toy else None]
    cells = islice(stage.plan(names, base["cells"]), arguments.cells)
    bench = Bench(study, base, results, clock)
    if scale.samplers:
        first = list(islice(cells, BEFORE_SAMPLERS))
        bench.run(first, budget)
        if not base.get("samplers") and budget.left > SAMPLERS * budget.whole:
            bench.compare_samplers(next(cell for cell in first if cell.group == DUAL))
    bench.run(cells, budget)
    print(results.write())
