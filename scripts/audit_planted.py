"""Does an audit catch a class that is merely hidden? Plants models whose label row was zeroed or swapped.

    python scripts/audit_planted.py --classes three --seeds 0 1 2

Both pass FA, and nothing was unlearned. Beside them stand the untouched model and one retrained without the class: how
many steps of each attack until the label draws its class half as often as before. Finished parts are not run again.
Results: benchmarks/results/audit_planted.json and .md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from cells import row

HIDDEN = ("zeroed", "swapped")
ATTACKS = (("relearn", "10 images of the class"), ("embedding_attack", "any embedding, 10 images"))
BUDGET = (
    "audit.relearn=[10]",
    "audit.relearn_steps=[0,1,2,3,5,7,10,15,20,30,50,100]",
    "audit.embedding_steps=[0,1,2,3,5,7,10,15,20,30,50,100]",
)


def dualoptim(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dualoptim_diffusion", *words], check=True, stdout=subprocess.DEVNULL)


def plant(folder: Path, kind: str, class_name: str) -> None:
    """A run folder whose model is the base model but for the row of one label."""
    from dualoptim_diffusion.models.loading import load_model

    if (folder / "planted").is_file():
        return
    nothing = ("method.num_steps=1", "method.retain_lr=1e-12", "sampling.seeds=0-99", "evaluation.protocol=seeds")
    dualoptim("forget", "digits_finetune", *nothing, "--class", class_name, "--out", str(folder), "--resume")
    model = load_model(folder / "model")
    label = next(i for i, name in model.id2label.items() if name == class_name)
    other = (label + 1) % model.num_classes
    with torch.no_grad():
        for table in model.class_tables:
            if kind == "zeroed":
                table[label] = 0
            else:
                table[[label, other]] = table[[other, label]]
    model.save(folder / "model")
    shutil.rmtree(folder / "samples")  # of the model before
    dualoptim("evaluate", str(folder), "sampling.seeds=0-99")
    (folder / "planted").touch()


def measure(runs: Path, class_name: str, seed: int) -> list[dict[str, Any]]:
    """Steps to half of every kind of model under every attack."""
    control = runs / f"retrain-{class_name}-{seed}"
    if not (control / "results.json").is_file():
        settings = (f"run.seed={seed}", "sampling.seeds=0-99", "evaluation.protocol=seeds")
        dualoptim("forget", "digits_retrain", *settings, "--class", class_name, "--out", str(control), "--resume")
    found = []
    for kind in HIDDEN:
        plant(folder := runs / f"{kind}-{class_name}", kind, class_name)
        words = [word for probe, _ in ATTACKS for word in ("--probe", probe)]
        dualoptim("audit", str(folder), f"audit.seed={seed}", *BUDGET, *words, "--control", str(control))
        audit = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
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
    lines = [
        "# Hidden, not gone", "", f"`{command}`", "",
        f"Steps until the label draws its class half as often as the original model's; {caught} of {len(found)} "
        "planted models are caught (0 = original < planted < retrained).", "",
        row(head), row(["---"] * len(head)),
    ]  # fmt: skip
    for part in found:
        steps = ["never" if s is None else str(s) for s in part["steps_to_half"].values()]
        fa, verdict = f"{part['plain_FA']['unlearned']:.0%}", "yes" if part["caught"] else "no"
        lines.append(row([part["class"], str(part["seed"]), part["planted"], fa, part["attack"], *steps, verdict]))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", nargs="+", default=["three"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/planted"))
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    found = [
        part for name in arguments.classes for seed in arguments.seeds for part in measure(arguments.runs, name, seed)
    ]
    names, seeds = " ".join(arguments.classes), " ".join(map(str, arguments.seeds))
    command = f"python scripts/audit_planted.py --classes {names} --seeds {seeds}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"command": command, "found": found}, indent=1)
    (arguments.out / "audit_planted.json").write_text(content + "\n", encoding="utf-8")
    (arguments.out / "audit_planted.md").write_text(text := tabulate(found, command), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
