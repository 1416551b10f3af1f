"""A classifier of the digits, what it forgets by each method, and how it is judged: the runs of random_subset.py."""

import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from dualoptim_diffusion import DualOptim, Phase, unlearn
from dualoptim_diffusion.core.config import DataConfig
from dualoptim_diffusion.core.errors import NonFiniteError
from dualoptim_diffusion.data import load_dataset
from dualoptim_diffusion.unlearning.saliency import diagonal_fisher, fisher_ratio_mask, top_fraction_mask

Found = dict[str, Any]
PAIRS: dict[str, tuple[str, ...]] = {  # of the forget and the retain phase, or one for both
    "one SGD": ("sgd",),
    "one Adam": ("adam",),
    "Adam (F), SGD (R)": ("adam", "sgd"),
    "SGD (F), SGD (R)": ("sgd", "sgd"),
    "Adam (F), Adam (R)": ("adam", "adam"),
    "SGD (F), Adam (R)": ("sgd", "adam"),
}
METHODS = ("SFRon", "SalUn", "SCRUB")
SHARE, STEPS, RETAIN_STEPS, BATCH = 0.1, 30, 5, 64
EPOCHS, LR, MOMENTUM, DECAY = 40, 0.1, 0.9, 5e-4  # of the model that forgets and of the one that never saw the tenth
GAMMA, TOP, LAMBDA = 3.0, 0.5, 0.5
WIDTHS = (32, 64, 128)
WRONG = 0.2  # share of the training labels
FIGURES = ("FA", "RA", "TA", "MIA")


@dataclass(frozen=True)
class Run:
    """Two optimizers have `rates` (forget, retain); one has (rate, weight of the forget loss)."""

    method: str
    pair: str
    rates: tuple[float, float]
    subset: int
    seed: int
    epochs: int = EPOCHS
    steps: int = STEPS

    @property
    def key(self) -> str:
        return repr(self)

    @classmethod
    def of(cls, result: Found) -> "Run":
        values = {name: result[name] for name in cls.__dataclass_fields__}
        return cls(**values | {"rates": tuple(result["rates"])})


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images [N, 1, 8, 8] in [-1, 1], their labels [N], and the same held out.

    A part of the training labels is wrong: what a network knows of them it can only have from memory.
    """
    parts = []
    for images in load_dataset(DataConfig(name="digits")):
        parts += [torch.cat(list(images.batches())).float() / 127.5 - 1, images.class_labels]
    source = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(parts[1]), generator=source) < WRONG
    shift = torch.randint(1, 10, wrong.shape, generator=source)
    return parts[0], torch.where(wrong, (parts[1] + shift) % 10, parts[1]), parts[2], parts[3]


def subset(number: int) -> tuple[Tensor, Tensor]:
    """Indices of a random tenth of the training images, and of all others."""
    count = len(digits()[0])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(number))
    tenth = round(SHARE * count)
    return order[:tenth], order[tenth:]


def batches(images: Tensor, labels: Tensor, seed: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches of a shuffled pass after pass."""
    source, left = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    for _ in range(count):
        while len(left) < BATCH:
            left = torch.cat([left, torch.randperm(len(images), generator=source)])
        chosen, left = left[:BATCH], left[BATCH:]
        yield images[chosen], labels[chosen]


def small_network() -> nn.Module:
    """Convolutions with batch norm, halved once, and a linear layer: 0.13M parameters."""
    layers: list[nn.Module] = []
    for before, after in pairwise((1, *WIDTHS)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if before == WIDTHS[0] else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], 10))


def trained(images: Tensor, labels: Tensor, seed: int, epochs: int) -> nn.Module:
    """A network of `WIDTHS` convolutions after so many epochs of SGD with momentum at one-cycle rates."""
    torch.manual_seed(seed)
    network = small_network()
    optimizer = torch.optim.SGD(network.parameters(), LR, MOMENTUM, weight_decay=DECAY)
    steps = epochs * (len(images) // BATCH)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps)
    for x, y in batches(images, labels, seed, steps):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        rates.step()
    return network.eval()


@lru_cache(maxsize=1)
def original(epochs: int) -> nn.Module:
    """Trained on all images."""
    return trained(*digits()[:2], seed=0, epochs=epochs)


@lru_cache(maxsize=16)
def aim(number: int, seed: int, epochs: int) -> dict[str, float]:
    """Figures of the model that never saw the tenth."""
    images, labels = digits()[:2]
    others = subset(number)[1]
    return figures(trained(images[others], labels[others], 1000 + seed, epochs), number)


@torch.no_grad()
def confidences(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each image is classified rightly, bool [N], and the probability of its label [N]."""
    logits = network.eval()(images)
    return logits.argmax(1) == labels, logits.softmax(1).gather(1, labels[:, None])[:, 0]


def figures(network: nn.Module, number: int) -> dict[str, float]:
    """FA, RA, TA and MIA in [0, 1]."""
    from sklearn.svm import SVC

    images, labels, held_out, held_out_labels = digits()
    forget, retain = subset(number)
    right_f, of_forget = confidences(network, images[forget], labels[forget])
    right_r, of_retain = confidences(network, images[retain], labels[retain])
    right_t, of_test = confidences(network, held_out, held_out_labels)
    members = of_retain[: len(of_test)]  # as many as were not seen
    seen = torch.cat([torch.ones(len(members)), torch.zeros(len(of_test))])
    attack = SVC(C=3, gamma="auto").fit(torch.cat([members, of_test])[:, None].numpy(), seen.numpy())
    unseen = attack.predict(of_forget[:, None].numpy()) == 0
    shares = (right_f, right_r, right_t)
    values = [float(share.double().mean()) for share in shares] + [float(unseen.mean())]
    return dict(zip(FIGURES, values, strict=True))


def losses(
    run: Run, network: nn.Module, teacher: nn.Module
) -> tuple[Callable[[int], Tensor], Callable[[int], Tensor], dict[str, Tensor]]:
    """Forget loss, retain loss and mask of a method; a loss is a function of the number of its update."""
    images, labels = digits()[:2]
    forget, retain = subset(run.subset)
    forget_batches = list(batches(images[forget], labels[forget], 2 * run.seed, run.steps))
    retain_batches = list(batches(images[retain], labels[retain], 2 * run.seed + 1, RETAIN_STEPS * run.steps))
    parameters = dict(network.named_parameters())

    def gradients(parts: Sequence[tuple[Tensor, Tensor]]) -> Iterator[dict[str, Tensor]]:
        for x, y in parts:
            values = torch.autograd.grad(F.cross_entropy(teacher(x), y), list(teacher.parameters()))
            yield dict(zip(parameters, values, strict=True))

    def ascent(update: int) -> Tensor:  # SFRon: images that are lost already weigh less
        x, y = forget_batches[update]
        each = F.cross_entropy(network(x), y, reduction="none")
        weights = 1 / (each.detach() ** LAMBDA + 1e-8)
        return -(weights / weights.sum() * each).sum()

    def random_labels(update: int) -> Tensor:  # SalUn
        x, y = forget_batches[update]
        shift = torch.randint(1, 10, y.shape, generator=torch.Generator().manual_seed(update))
        return F.cross_entropy(network(x), (y + shift) % 10)

    def divergence(x: Tensor) -> Tensor:  # SCRUB: from the original's probabilities
        with torch.no_grad():
            known = teacher(x).log_softmax(1)
        return F.kl_div(network(x).log_softmax(1), known, log_target=True, reduction="batchmean")

    def retained(update: int) -> Tensor:
        x, y = retain_batches[update]
        loss = F.cross_entropy(network(x), y)
        return loss + divergence(x) if run.method == "SCRUB" else loss

    if run.method == "SFRon":
        sets = (forget_batches[:3], retain_batches[: len(retain) // BATCH])
        fishers = [diagonal_fisher(gradients(part)) for part in sets]
        return ascent, retained, fisher_ratio_mask(*fishers, parameters, GAMMA)
    if run.method == "SalUn":
        return random_labels, retained, top_fraction_mask(gradients(forget_batches[:3]), parameters, TOP)
    return lambda update: -divergence(forget_batches[update][0]), retained, {}


def optimizers(run: Run, network: nn.Module) -> Any:
    """One optimizer for both phases, or two."""

    def make(name: str, lr: float) -> torch.optim.Optimizer:
        if name == "adam":
            return torch.optim.Adam(network.parameters(), lr)
        return torch.optim.SGD(network.parameters(), lr, MOMENTUM)

    names = PAIRS[run.pair]
    made = [make(name, lr) for name, lr in zip(names, run.rates, strict=False)]
    return DualOptim(made[0], made[-1])


def forget(run: Run) -> Found:
    """One run: its figures, those of the model that never saw the tenth, and the gap."""
    torch.set_num_threads(1)
    teacher = original(run.epochs)
    network = deepcopy(teacher).train()
    forget_loss, retain_loss, mask = losses(run, network, teacher)
    weight = run.rates[1] if len(PAIRS[run.pair]) == 1 else 1.0
    phases = [
        Phase("forget", forget_loss, weight=weight, weight_schedule="cosine", mask=mask or None, clip_norm=1.0),
        Phase("retain", retain_loss, steps=RETAIN_STEPS, mask=mask if run.method == "SalUn" else None, clip_norm=1.0),
    ]
    wanted = aim(run.subset, run.seed, run.epochs)
    try:
        unlearn(network, optimizers(run, network), phases, run.steps, log_cosine=False)
    except NonFiniteError:
        return asdict(run) | {"figures": None, "wanted": wanted, "gap": 1.0}
    found = figures(network, run.subset)
    gap = mean(abs(found[name] - wanted[name]) for name in FIGURES)
    return asdict(run) | {"figures": found, "wanted": wanted, "gap": gap}
