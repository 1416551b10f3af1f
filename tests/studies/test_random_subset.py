"""A classifier forgets a random tenth: the settings to choose from, the tenth, and what is measured."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from studies import classifier_forgetting, random_subset
from studies.classifier_forgetting import PAIRS, Run, digits, figures, losses, subset


def test_every_pair_of_optimizers_has_as_many_settings_to_choose_from() -> None:
    assert {len(random_subset.settings(pair)) for pair in PAIRS} == {12}


def test_the_tenth_and_the_others_are_all_training_images() -> None:
    forget, retain = subset(3)
    assert torch.cat([forget, retain]).sort().values.equal(torch.arange(len(digits()[0])))
    assert len(forget) == round(0.1 * len(digits()[0]))
    assert not forget.equal(subset(4)[0])


class Remembers(nn.Module):
    """Knows the label of every training image with certainty, and nothing else."""

    def __init__(self, forgotten: torch.Tensor) -> None:
        super().__init__()
        images, labels = digits()[:2]
        self.known = {x.numpy().tobytes(): int(y) for i, (x, y) in enumerate(zip(images, labels, strict=True))}
        for i in forgotten.tolist():
            del self.known[images[i].numpy().tobytes()]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(images), 10)
        for row, x in zip(logits, images, strict=True):
            if (label := self.known.get(x.numpy().tobytes())) is not None:
                row[label] = 20
        return logits


def test_the_attack_calls_what_was_seen_seen_and_what_was_not_unseen() -> None:
    everything = figures(Remembers(torch.empty(0, dtype=torch.long)), 0)
    assert everything["FA"] == everything["RA"] == 1
    assert everything["MIA"] == 0
    without = figures(Remembers(subset(0)[0]), 0)
    assert without["FA"] < 0.3
    assert without["RA"] == without["MIA"] == 1


def test_each_method_moves_away_from_the_labels_of_the_tenth() -> None:
    network, teacher = (classifier_forgetting.trained(*digits()[:2], seed=0, epochs=1) for _ in range(2))
    network.eval()
    for method in ("SFRon", "SCRUB"):
        forget_loss, _, _ = losses(Run(method, "one SGD", (1e-3, 1.0), 0, 0, steps=3), network, teacher)
        assert forget_loss(0).item() <= 0  # it is ascended
    forget_loss, retain_loss, mask = losses(Run("SalUn", "one SGD", (1e-3, 1.0), 0, 0, steps=3), network, teacher)
    assert forget_loss(0) > retain_loss(0)  # the labels are wrong ones
    chosen = sum(int(part.sum()) for part in mask.values())
    assert chosen == pytest.approx(0.5 * sum(p.numel() for p in network.parameters()), abs=1)
