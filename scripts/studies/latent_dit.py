"""Does a DiT in an autoencoder's latents forget a class of photographs, and are two optimizers better than one? Trains
an autoencoder, two judges and a DiT from scratch within a time budget. Each arm, SFRon with two AdamWs and with one,
chooses its rate on "goldfish": the highest RA among rates with an FA of at most 5%. Then both forget golden retriever,
school bus and lemon with three seeds, beside finetuning, null matching and SalUn. Results are written after every
cell; a further call goes on. FA is that of a judge of all classes, of guided images; distances are to held-out images
on features of the second judge. Writes latent_dit.json, .md and grids.

    python scripts/studies/latent_dit.py --data tiny-imagenet-20 --minutes 10                 # 20 classes, 64 px; a GPU
    python scripts/studies/latent_dit.py --data tiny-imagenet-20 --minutes 300 --scale small  # 5 classes, 32 px; a CPU
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from studies.experiment import Stage, run
from studies.experiment_tables import DUAL, SHARED, Found
from studies.photographs import Scale
from studies.runner import Cell
from studies.small_autoencoder import Autoencoder

CLASSES, TUNED = ("golden retriever", "school bus", "lemon"), "goldfish"
RATES = (1e-4, 3e-4, 1e-3)
ENOUGH = 0.05  # FA
ONE = f"{SHARED}W"
ARMS: dict[str, tuple[str, ...]] = {DUAL: (), ONE: ("optimizers.mode=shared", "optimizers.retain=adamw")}
SFRON = (
    "method.num_steps=300", "method.loss_exponent=0.5", "method.forget_ceiling=1.0", "method.forget_schedule=cosine",
    "method.retain_schedule=cosine",
)  # fmt: skip
MATCHING = ("method.num_steps=300", "method.forget_lr=3e-4", "method.retain_lr=1e-4")
OTHERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "null matching + DualOptim": ("imagenet_dit_null_matching", (*MATCHING, "method.negative_guidance=1")),
    "SalUn + DualOptim": ("imagenet_dit_salun_dual", MATCHING),
}
FULL = Scale(
    pretrain="digits_dit_pretrain",
    model=(
        "model.num_layers=12", "model.num_attention_heads=6", "model.attention_head_dim=64", "run.precision=bf16",
        "run.compile=true",
    ),
    image_size=64, autoencoder=Autoencoder((64, 128, 128), 1, num_steps=3000, batch_size=64),
    batch_size=128, num_steps=50, guidance_scale=1.5, retained=30, judge_epochs=30,
)  # fmt: skip
SMALL = Scale(
    pretrain="digits_dit_pretrain",
    model=("model.num_layers=6", "model.num_attention_heads=4", "model.attention_head_dim=48"),
    classes=(*CLASSES, TUNED, "monarch"), image_size=32,
    autoencoder=Autoencoder((32, 64, 64), 1, num_steps=2500, batch_size=32),
    batch_size=64, drawn_at_once=100, guidance_scale=1.5, forgotten=200, retained=100, of_base=200, judge_epochs=15,
)  # fmt: skip
TOY = Scale(
    pretrain="digits_dit_pretrain",
    model=("model.num_layers=2", "model.num_attention_heads=2", "model.attention_head_dim=8"),
    image_size=32, autoencoder=Autoencoder((32, 32, 32), 1, num_steps=2, batch_size=4),
    batch_size=4, drawn_at_once=8, num_steps=2, forgotten=4, retained=4, of_base=4, mask_batches=1, judge_epochs=1,
    ema_decay=0.9, steps=2, dimensions=8,
)  # fmt: skip


def plan(names: Sequence[str], finished: Sequence[Found]) -> Iterator[Cell]:
    """Each arm's rates on a class of their own; then the arms, and finetuning, at the rates that were chosen."""
    classes = [name for name in CLASSES if name in names] or names
    for group in ARMS:
        for rate in RATES:
            yield sfron(group, rate, TUNED if TUNED in names else names[0], 0, tuning=True)
    rates = {group: chosen_rate(group, finished) for group in ARMS}
    for seed in range(3):
        for name in classes:
            for group, rate in rates.items():
                yield sfron(group, rate, name, seed)
            words = ("optimizers.retain=adamw", "method.num_steps=300", f"method.retain_lr={rates[DUAL]:g}")
            yield Cell("finetuning", "cifar10_finetune", name, seed, (*words, "method.retain_schedule=cosine"))
        for group, (recipe, overrides) in OTHERS.items():
            for name in classes:
                yield Cell(group, recipe, name, seed, overrides)


def sfron(group: str, rate: float, class_name: str, seed: int, tuning: bool = False) -> Cell:
    """SFRon with an arm's optimizers, forgetting and retaining at one rate."""
    words = (*ARMS[group], *SFRON, f"method.forget_lr={rate:g}", f"method.retain_lr={rate:g}")
    title = title_of(group, rate) if tuning else group
    return Cell(title, "imagenet_dit_sfron_dual", class_name, seed, words)


def title_of(group: str, rate: float) -> str:
    return f"choosing: {group}, {rate:g}"


def chosen_rate(group: str, finished: Sequence[Found]) -> float:
    """The rate with the highest RA among those that forget; with the least FA where none does."""
    titles = {title_of(group, rate): rate for rate in RATES}
    tried = [cell for cell in finished if cell["group"] in titles]

    def merit(cell: Found) -> tuple[bool, float]:
        fa, ra = (cell["after"][key]["value"] for key in ("FA", "RA"))
        return fa <= ENOUGH, ra if fa <= ENOUGH else -fa

    return titles[max(tried, key=merit)["group"]]


STAGE = Stage(
    "latent_dit", "A DiT in latents forgets photographs", {"full": FULL, "small": SMALL, "toy": TOY},
    ("golden retriever", "goldfish", "lemon"), plan,
)  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    run(STAGE, __file__, __doc__, words)


if __name__ == "__main__":
    main()
