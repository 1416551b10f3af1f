"""Does an audit catch a class that is merely hidden? Plants models whose label row was zeroed or swapped. Both pass FA,
although nothing was unlearned. Each is audited beside the untouched model and one retrained without the class: how
many steps of each attack does it take until the label draws its class half as often as before? Finished runs are not
made again. Writes audit_planted.json and .md.

    python scripts/studies/audit_planted.py --classes three --seeds 0 1 2
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, dualoptim, parse, parser
from tables import read_json

HIDDEN = ("zeroed", "swapped")
ATTACKS = (("relearn", "10 images of the class"), ("embedding_attack", "any embedding, 10 images"))
BUDGET = (
    "audit.relearn=[10]",
    "audit.relearn_steps=[0,1,2,3,5,7,10,15,20,30,50,100]",
    "audit.embedding_steps=[0,1,2,3,5,7,10,15,20,30,50,100]",
)


SETTINGS = ("sampling.seeds=0-99", "evaluation.protocol=seeds")


class Planting:
    """Where models are planted and how `dualoptim` is called for it; a toy one is tiny and in this process."""

    def __init__(self, runs: Path, recipes: Path | None = None) -> None:
        self.runs, self.here = runs, recipes is not None
        self.overrides = () if recipes is None else tuple(toy.overrides(recipes))
        self.budget = (*BUDGET, *(() if recipes is None else toy.AUDIT))

    def call(self, *words: str) -> None:
        threads = None if "OMP_NUM_THREADS" in os.environ else 2
        if code := dualoptim(*words, here=self.here, threads=threads):
            raise RuntimeError(f"dualoptim {' '.join(words)} ended with {code}")

    def forget(self, recipe: str, folder: Path, class_name: str, *settings: str) -> None:
        words = (*settings, *SETTINGS, *self.overrides, "--class", class_name, "--out", str(folder), "--resume")
        self.call("forget", recipe, *words)

    def plant(self, folder: Path, kind: str, class_name: str) -> None:
        """A run folder whose model is the base model but for the row of one label."""
        import torch

        from dualoptim_diffusion.models.loading import load_model

        if (folder / "planted").is_file():
            return
        self.forget("digits_finetune", folder, class_name, "method.num_steps=1", "method.retain_lr=1e-12")
        model = load_model(folder / "model")
        label = next(i for i, name in model.id2label.items() if name == class_name)
        other = (label + 1) % model.num_classes
        with torch.no_grad():
            for rows in model.class_tables:
                if kind == "zeroed":
                    rows[label] = 0
                else:
                    rows[[label, other]] = rows[[other, label]]
        model.save(folder / "model")
        shutil.rmtree(folder / "samples")  # of the model before
        self.call("evaluate", str(folder), *(() if self.here else SETTINGS[:1]))
        (folder / "planted").touch()

    def measure(self, class_name: str, seed: int) -> list[dict[str, Any]]:
        """Steps to half of every kind of model under every attack."""
        control = self.runs / f"retrain-{class_name}-{seed}"
        if not (control / "results.json").is_file():
            self.forget("digits_retrain", control, class_name, f"run.seed={seed}")
        found = []
        for kind in HIDDEN[1:] if self.here else HIDDEN:
            self.plant(folder := self.runs / f"{kind}-{class_name}", kind, class_name)
            probes = [word for probe, _ in ATTACKS for word in ("--probe", probe)]
            self.call("audit", str(folder), f"audit.seed={seed}", *self.budget, *probes, "--control", str(control))
            audit = read_json(folder / "audit.json")
            for probe, attack in ATTACKS:
                steps = audit["probes"][probe]["trials"][attack]["steps_to_half"]
                found.append(
                    {
                        "class": class_name,
                        "seed": seed,
                        "planted": kind,
                        "attack": probe,
                        "plain_FA": {role: rate["value"] for role, rate in audit["plain"].items()},
                        "steps_to_half": steps,
                        "caught": is_caught(steps),
                        "headline": audit["headline"],
                    }
                )
        return found


def is_caught(steps: dict[str, int | None]) -> bool:
    """Whether untouched = 0 < planted < retrained; a retrained model may never get there."""
    original, planted, control = steps["original"], steps["unlearned"], steps["control"]
    return original == 0 and planted is not None and planted > 0 and (control is None or planted < control)


def tabulate(found: list[dict[str, Any]], command: str) -> str:
    caught = sum(part["caught"] for part in found)
    head = ["class", "seed", "planted", "plain FA", "attack", "steps: original", "planted", "retrained", "caught"]
    body = []
    for part in found:
        steps = ["never" if s is None else s for s in part["steps_to_half"].values()]
        fa, verdict = f"{part['plain_FA']['unlearned']:.0%}", "yes" if part["caught"] else "no"
        body.append([part["class"], part["seed"], part["planted"], fa, part["attack"], *steps, verdict])
    lines = [
        "# Hidden, not gone", "", f"`{command}`", "",
        f"Steps until the label draws its class half as often as the original model's; {caught} of {len(found)} "
        "planted models are caught (0 = original < planted < retrained).", "", *tables.table(head, body),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--classes", nargs="+", default=["three"], metavar="CLASS")
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    options.add_argument("--runs", type=Path, default=Path("runs/planted"), help="[default: %(default)s]")
    arguments = parse(options, words)
    out, classes, seeds = arguments.out, arguments.classes, arguments.seeds
    planting = Planting(arguments.runs)
    if arguments.toy:
        planting, classes, seeds = Planting(out / "runs", out / "recipes"), ["three"], [0]
    found = [part for name in classes for seed in seeds for part in planting.measure(name, seed)]
    command = command_line(__file__, ["--classes", *classes, "--seeds", *map(str, seeds)])
    text = tabulate(found, command)
    tables.write(out / "audit_planted", {"command": command, "found": found}, text)
    print(text)


if __name__ == "__main__":
    main()
