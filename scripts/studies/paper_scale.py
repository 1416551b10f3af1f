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
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from studies.experiment import Stage, run
from studies.experiment_tables import DUAL, SHARED, Found
from studies.photographs import Scale
from studies.runner import Cell

CLASSES = ("automobile", "cat", "dog", "horse", "truck")  # of the paper's table
SAME = f"{SHARED}, settings of the dual"
FINETUNING = "finetuning"
ONE_ADAM = ("optimizers.mode=shared", "optimizers.retain=adam")
FULL = Scale(
    model=("model.dropout=0",),  # for minutes of training; no parameter hangs on it
    samplers=(("ddim", 50), ("ddpm", 1000)),
)
TOY = Scale(
    model=(
        "model.width=16", "model.multipliers=[1, 2]", "model.layers_per_block=1", "model.attention_resolutions=[]",
        "model.mid_attention=false", "model.norm_groups=4", "run.precision=fp32", "run.compile=false",
    ),
    batch_size=4, drawn_at_once=8, num_steps=2, forgotten=4, retained=4, of_base=4, mask_batches=1, judge_epochs=1,
    ema_decay=0.9, steps=2, dimensions=8, samplers=(("ddim", 2), ("ddpm", 2)),
)  # fmt: skip


def plan(names: Sequence[str], finished: Sequence[Found] = ()) -> Iterator[Cell]:
    """All cells, most telling first: two optimizers beside one with the same settings, then what both are beside."""
    classes = [name for name in CLASSES if name in names] or names
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


STAGE = Stage(
    "paper_scale", "Forgetting at the paper's scale", {"full": FULL, "toy": TOY}, ("automobile", "cat", "truck"), plan
)


def main(words: Sequence[str] | None = None) -> None:
    run(STAGE, __file__, __doc__, words)


if __name__ == "__main__":
    main()
