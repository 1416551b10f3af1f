"""Does DualOptim help at the paper's scale? From a folder of CIFAR-10 images to a table, sized by a time budget on one
GPU: trains two judges and the paper's U-Net (38.6M parameters) from scratch, computes the masks of all classes in one
pass, and runs forgetting cells, most telling first, until the time is up: SFRon with one optimizer and with two on
five classes, finetuning, SFRon and SalUn as published, gradient ascent, then other seeds. Results are written after
every cell, so a stopped run is a result; a further call goes on, and another seed adds a base model to the table. FA is
ten-way, of guided images. Distances are to held-out images on features of the second judge. Writes paper_scale.json,
.md and grids.

    python scripts/studies/paper_scale.py --data cifar10 --minutes 10
    python scripts/studies/paper_scale.py --data cifar10 --minutes 10 --seed 1
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, parse, parser
from machine import flop_of_forward, matmul_rates, synchronise, where
from studies.photographs import FULL, TOY, Clock, Scale, Study
from studies.runner import Cell

START = perf_counter()
BEFORE_SAMPLERS, SAMPLERS = 15, 0.25  # cells that come before the comparison of samplers; its share of the time
CLASSES = ("automobile", "cat", "dog", "horse", "truck")  # of the paper's table
IN_GRIDS = 3
BASE_ENDS, BASE_LEAST = 0.64, 0.2  # of the time: when the base model is trained, and how long at least
TRIAL = 0.02  # of the time, for each rate that is tried
WARM_UP, TIMED = 10, 60  # training steps whose time tells how many fit
LEAST_STEP = 1e-3  # seconds: less would be a wrong clock
TOY_SECONDS = 0.2
SHARED, DUAL = "SFRon, one Adam", "SFRon + DualOptim"
SAME = f"{SHARED}, settings of the dual"
FINETUNING = "finetuning"
ONE_ADAM = ("optimizers.mode=shared", "optimizers.retain=adam")
Found = dict[str, Any]


def plan(classes: Sequence[str]) -> Iterator[Cell]:
    """All cells, most telling first: two optimizers beside one with the same settings, then what both are beside."""
    pair = {DUAL: ("cifar10_sfron_dual", ()), SAME: ("cifar10_sfron_dual", ONE_ADAM)}
    others = {
        FINETUNING: ("cifar10_finetune", ("method.num_steps=150",)),
        SHARED: ("cifar10_sfron_shared", ()),
        "SalUn + DualOptim": ("cifar10_salun_dual", ()),
        "gradient ascent": ("cifar10_gradient_ascent", ()),
    }
    for seed in range(3):
        for name in classes:
            for group, (recipe, overrides) in pair.items():
                yield Cell(group, recipe, name, seed, overrides)
        for group, (recipe, overrides) in others.items():
            for name in classes if seed == 0 or group == SHARED else ():
                yield Cell(group, recipe, name, seed, overrides)


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

    def __init__(self, stem: Path, command: str) -> None:
        self.stem, self.command = stem, command
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
        text = tabulate(self.bases)
        tables.write(self.stem, {"bases": self.bases}, text)
        return text


def key(cell: Cell | Found) -> tuple[Any, ...]:
    part = cell if isinstance(cell, dict) else vars(cell)
    return part["group"], part["class_name"], part["seed"]


class Bench:
    """Runs cells on the base model that the study's network holds, and writes down each."""

    def __init__(self, study: Study, base: Found, out: Path, write: Callable[[], Any], clock: Clock) -> None:
        self.study, self.base, self.out, self.write, self.clock = study, base, out, write, clock
        self.weights = study.keep_weights()
        with clock.part("masks"):
            study.fishers  # noqa: B018, made once
        with clock.part("drawing of the base model"):
            self.before = study.draw(dict.fromkeys(study.id2label, study.scale.of_base))
        self.scored: dict[int, Found] = {}  # the base model's figures beside those of each forgotten class
        self.slowest, self.grids = 0.0, 0

    def run(self, cells: Sequence[Cell], budget: Budget) -> None:
        """Those that are not there yet, while there is time for one more."""
        done = {key(cell) for cell in self.base["cells"]}
        for cell in cells:
            if key(cell) in done:
                continue
            if budget.left < 1.3 * self.slowest:
                break
            start = perf_counter()
            found = self.measure(cell)
            self.base["cells"].append(found)
            self.clock.write_to(self.base)
            self.base["peak_bytes"] = peak_bytes()
            self.write()
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
            self.scored[label] = study.score(before, [label])
        found |= {"after": study.score(after, [label]), "before": self.scored[label]}
        seconds = {"drawing": round(drawn - start, 2), "scoring": round(perf_counter() - drawn, 2)}
        found["seconds"] |= seconds
        if cell.group == DUAL and cell.seed == 0 and self.grids < IN_GRIDS:
            self.grids += 1
            draw_pair(self.out / f"paper_scale_{cell.class_name}.png", before, after, study.id2label, label)
        study.restore(self.weights)
        return found

    def compare_samplers(self, cell: Cell) -> None:
        """Distances of the base model and of what the cell makes of it, at 50 and at 1000 steps, to 500 real images a
        class and to all."""
        study, label = self.study, self.study.label_of(cell.class_name)
        chosen = [i for i in study.id2label if i != label]
        real = [study.train.of_classes([i]).images[:] for i in chosen]
        self.base["samplers"] = []
        for model in ("base model", cell.group):
            if model == cell.group:
                study.forget(cell)
            for sampler, num_steps in (("ddim", 50), ("ddpm", 1000)):
                each, steps = study.scale.drawn_at_once // len(chosen), num_steps if study.scale is FULL else 2
                with self.clock.part(f"{sampler} in {steps} steps, {model}"):
                    drawn = study.draw(dict.fromkeys(chosen, max(1, each)), steps, sampler)
                for images in ([part[:500] for part in real], real):
                    self.base["samplers"].append(
                        {"model": model, "without": cell.class_name, "sampler": sampler, "num_steps": steps}
                        | study.distance_to(images, drawn)
                    )
            self.clock.write_to(self.base)
            self.write()
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


def tabulate(bases: Sequence[Found]) -> str:
    """The table of all cells, and of the groups over the classes."""
    lines = ["# Forgetting at the paper's scale", ""]
    if len(bases) > 1:
        lines += [f"Over {len(bases)} base models:", "", *table_of_pairs([base["cells"] for base in bases])]
    for base in bases:
        lines += [*about(base), ""]
        if base["cells"]:
            lines += [*table_of_groups(base["cells"]), "", *table_of_pairs([base["cells"]])]
            lines += [*table_of_cells(base["cells"]), ""]
        if base.get("samplers"):
            lines += [*table_of_samplers(base["samplers"]), ""]
    return "\n".join(lines)


def about(base: Found) -> list[str]:
    """Where a base model comes from."""
    losses = base["held_out_loss"]
    judges = ", ".join(f"{role} {accuracy:.1%}" for role, accuracy in base["judges"].items())
    seconds = ", ".join(f"{part} {s:.0f}" for part, s in base["seconds"].items())
    return [
        f"## Base model {base['sha256'][:12]}, seed {base['seed']}", "",
        ", ".join(f"`{command}`" for command in base["commands"]), "",
        f"{base['device']}, torch {base['torch']}, {base['passes']} passes. "
        f"{base['parameters'] / 1e6:.1f} M parameters, {base['num_steps']} steps of {base['batch_size']} images "
        f"({base['epochs']:.1f} epochs) at rate "
        f"{base['lr']:g}, in {base['seconds_of_training']:.0f} s: {base['images_per_second']:.0f} images/s, "
        f"{base['share_of_matmul_rate']:.0%} of the measured matmul rate ({base['matmul_rate'] / 1e12:.0f} TFLOP/s). "
        f"Held-out loss {losses['raw']:.4f}, of the averaged weights {losses['averaged']:.4f}. Accuracy on held-out "
        f"images: {judges}. Drawn in 25 DDIM steps with guidance {base['guidance_scale']:g}. Seconds: {seconds}.",
    ]  # fmt: skip


def table_of_groups(cells: Sequence[Found]) -> list[str]:
    """Mean and deviation over the runs that every group has, by class and seed."""
    body = []
    for group in dict.fromkeys(cell["group"] for cell in cells):
        mine = [cell for cell in cells if cell["group"] == group]
        fa, ra, ratio = ([value(cell) for cell in mine] for value in (fa_of, ra_of, ratio_of))
        kid = [1000 * (cell["after"]["kid"]["value"] - cell["before"]["kid"]["value"]) for cell in mine]
        body.append(
            [
                group, len(mine), tables.spread(fa, ".1%"), f"{max(fa):.1%}", tables.spread(ra, ".1%"),
                tables.spread(ratio, ".2f"), tables.spread(kid, ".2f"),
            ]
        )  # fmt: skip
    head = ["runs", "n", "FA", "largest FA", "RA", "FD∞, of the base model's", "KID - the base model's, x 1000"]
    return tables.table(head, body)


def table_of_pairs(cells_of_bases: Sequence[Sequence[Found]]) -> list[str]:
    """What two optimizers change for the same base model, class and seed: mean differences with intervals over these
    pairs."""
    pairs: dict[str, list[tuple[Found, Found]]] = {}
    for cells in cells_of_bases:
        dual = {(cell["class_name"], cell["seed"]): cell for cell in cells if cell["group"] == DUAL}
        for one in cells:
            two = dual.get((one["class_name"], one["seed"]))
            if one["group"].startswith(SHARED) and two is not None:
                pairs.setdefault(one["group"], []).append((two, one))
    body = []
    for group, mine in pairs.items():
        values = [[value(two) - value(one) for two, one in mine] for value in (fa_of, ra_of, ratio_of, step_of)]
        told = map(tables.mean_with_interval, values, (".1%", ".1%", ".2f", ".4f"))
        body.append([f"{DUAL} - {group}", len(mine), *told])
    head = ["difference", "pairs", "FA (95%)", "RA (95%)", "FD∞, of the base model's (95%)", "seconds a step (95%)"]
    return [*tables.table(head, body), ""] if body else []


def fa_of(cell: Found) -> float:
    return float(cell["after"]["FA"]["value"])


def ra_of(cell: Found) -> float:
    return float(cell["after"]["RA"]["value"])


def ratio_of(cell: Found) -> float:
    """FD∞ after forgetting, of the base model's beside the same images."""
    return float(cell["after"]["fd_infinity"]["value"] / cell["before"]["fd_infinity"]["value"])


def step_of(cell: Found) -> float:
    return float(cell["seconds"]["forgetting"] / cell["num_steps"])


def table_of_cells(cells: Sequence[Found]) -> list[str]:
    body = []
    for cell in cells:
        after, before = cell["after"], cell["before"]
        drawn = sorted(after["drawn"][cell["class_name"]].items(), key=lambda item: -item[1])[:2]
        total = sum(after["drawn"][cell["class_name"]].values())
        retained = [value for name, value in after["spread"].items() if name != cell["class_name"]]
        body.append(
            [
                cell["group"], cell["class_name"], cell["seed"], tables.rate(after["FA"]),
                f"{before['FA']['value']:.1%}", f"{after['RA']['value']:.1%} ({before['RA']['value']:.1%})",
                interval(after["fd_infinity"], ".3g"), interval(before["fd_infinity"], ".3g"),
                ", ".join(f"{name} {count / total:.0%}" for name, count in drawn),
                f"{after['spread'][cell['class_name']]:.2f}", f"{mean(retained):.2f}",
                f"{cell['seconds']['forgetting']:.1f}",
            ]
        )  # fmt: skip
    head = [
        "run", "class", "seed", "FA (95%)", "before", "RA (before)", "FD∞ (95%)", "before", "the label draws",
        "its spread", "others' spread", "seconds",
    ]  # fmt: skip
    return tables.table(head, body)


def table_of_samplers(found: Sequence[Found]) -> list[str]:
    body = [
        [
            part["model"], part["sampler"], part["num_steps"], part["n_reference"], part["n_generated"],
            f"{part['fd_infinity']['at_n']:.3g}", interval(part["fd_infinity"], ".3g"),
        ]
        for part in found
    ]  # fmt: skip
    head = ["model", "sampler", "steps", "real images", "drawn images", "FD", "FD∞ (95%)"]
    return [f"Without {found[0]['without']}, against training images:", "", *tables.table(head, body)]


def interval(figure: Found, form: str) -> str:
    low, high = figure["ci95"]
    return f"{figure['value']:{form}} ({low:{form}} to {high:{form}})"


def describe(study: Study, trained: Found, rates: dict[str, float]) -> Found:
    """What the results say of a base model."""
    precision = study.recipe.run.precision
    one_image = torch.zeros(1, *study.model.x_0_shape), *(torch.zeros(1, dtype=torch.long) for _ in range(2))
    flop, rate = flop_of_forward(study.model.fresh_network(), *one_image), rates[precision]
    return where() | trained | {
        "seed": study.seed,
        "passes": study.model.passes,
        "guidance_scale": study.scale.guidance_scale,
        "parameters": sum(p.numel() for p in study.network.parameters()),
        "flop_of_forward": flop,
        "matmul_rate": rate,
        "share_of_matmul_rate": 3 * flop * trained["images_per_second"] / rate,
        "seconds_of_training": trained["seconds"],
        "judges": study.judge_accuracies(),
    }  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--data", type=Path, help="folder with train/CLASS and test/CLASS; needed but for toy")
    options.add_argument("--minutes", type=float, help="for everything [default: 10; toy: as long as it takes]")
    options.add_argument("--seed", type=int, default=0, help="of the base model [default: %(default)s]")
    options.add_argument(
        "--rates", type=float, nargs="+", default=[5e-4],
        help="learning rate of the base model; of several, the best after a short trial [default: 5e-4]",
    )  # fmt: skip
    options.add_argument("--cells", type=int, default=1000, help="at most so many [default: all]")
    options.add_argument("--work", type=Path, default=Path("runs/paper_scale"), help="[default: %(default)s]")
    arguments = parse(options, words)
    scale: Scale = FULL
    if arguments.toy:
        scale = TOY
        arguments.data, arguments.work = arguments.out / "data", arguments.out / "work"
        toy.write_photographs(arguments.data, ("automobile", "cat", "truck"))
    if arguments.data is None:
        options.error("--data names the folder of photographs")
    arguments.work.mkdir(parents=True, exist_ok=True)
    budget, clock = Budget(arguments.minutes or (60 if arguments.toy else 10)), Clock()
    results = Results(arguments.out / "paper_scale", command_line(__file__, words))
    with clock.part("reading the images"):
        study = Study(arguments.data, scale, arguments.seed)
    with clock.part("judges and compilation"):
        study.prepare(arguments.data, arguments.work)
    rates = matmul_rates(small=arguments.toy)

    def seconds() -> float:
        return TOY_SECONDS if arguments.toy else max(BASE_LEAST * budget.whole, BASE_ENDS * budget.whole - budget.spent)

    trial = TOY_SECONDS if arguments.toy else TRIAL * budget.whole
    with clock.part("base model"):
        trained = obtain_base(study, arguments.work, arguments.rates, seconds, trial)
    base = results.open(study.sha256)
    base |= describe(study, trained, rates) | base  # as the run that trained it measured them
    base["commands"] = list(dict.fromkeys([*base.get("commands", []), results.command]))
    clock.write_to(base)
    names = list(study.id2label.values())
    classes = names[:1] if arguments.toy else [name for name in CLASSES if name in names] or names
    cells = list(plan(classes))[: arguments.cells]
    bench = Bench(study, base, arguments.out, results.write, clock)
    bench.run(cells[:BEFORE_SAMPLERS], budget)
    if not base.get("samplers") and budget.left > SAMPLERS * budget.whole:
        bench.compare_samplers(Cell(DUAL, "cifar10_sfron_dual", cells[0].class_name, 0))
    bench.run(cells[BEFORE_SAMPLERS:], budget)
    print(results.write())


if __name__ == "__main__":
    main()
