"""Selective Amnesia: its Fisher information, its penalty, its joint loss; in float64 on a tiny model."""

import pytest
import torch

from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.diffusion.randomness import generator
from dualoptim_diffusion.unlearning.methods import phases
from dualoptim_diffusion.unlearning.methods.selective_amnesia import MICRO_BATCH, replay_fisher
from tests.helpers.toy_model import ToyModel, batch, make


def replay(count: int = 3) -> ImageSet:
    source = torch.Generator().manual_seed(5)
    images = torch.randint(0, 3, (count, 1, 2, 2), generator=source, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % 4, dict(enumerate("abcd")))


@pytest.mark.numerical
@pytest.mark.parametrize("num_timesteps", [None, 7, 300])
def test_the_fisher_squares_the_explicitly_summed_gradients(num_timesteps: int | None) -> None:
    model, images = ToyModel(), replay()
    count = num_timesteps or 1000
    expected = torch.zeros(5, dtype=torch.float64)
    for i in range(len(images)):
        source = generator("replay-fisher", i)
        timesteps = torch.randperm(1000, generator=source)[:count]
        total = torch.zeros(5, dtype=torch.float64)
        for part in timesteps.split(MICRO_BATCH):
            noise = torch.randn(len(part), 1, 2, 2, generator=source).double()
            for t, eps in zip(part, noise, strict=True):  # one timestep at a time
                x_0 = images.images[i : i + 1].double()
                loss = model.loss(x_0, t[None], eps[None], images.class_labels[i : i + 1]).sum()
                total += torch.autograd.grad(loss, model.network.weight)[0]
        expected += (total * 1000 / count).square() / len(images)
    fisher = replay_fisher(model, images, num_timesteps)
    assert torch.allclose(fisher["weight"], expected, rtol=1e-10)
    assert not fisher["unused"].any()


@pytest.mark.numerical
def test_the_penalty_gradient_is_autograds() -> None:
    model = ToyModel()
    method = make("sa", penalty_weight=10.0, retain_weight=1.0, fisher_timesteps=5)
    method.prepare(model, replay())
    with torch.no_grad():
        model.network.weight += torch.linspace(-1, 1, 5)
    model.network.zero_grad()
    method.add_gradient(model)
    ours = model.network.weight.grad.clone()
    model.network.zero_grad()
    penalty = sum(
        (method.fisher[name] * (p - method.start[name]).square()).sum() for name, p in model.network.named_parameters()
    )
    (10.0 * penalty).backward()
    assert ours.abs().max() > 0
    assert torch.allclose(ours, model.network.weight.grad, rtol=1e-12)


@pytest.mark.numerical
def test_the_joint_loss_is_uniform_noise_for_the_class_and_replay_at_the_same_timesteps_without_label_drop() -> None:
    model, forget, retain = ToyModel(), batch([1] * 4), batch([0, 2, 3, 0], seed=1)
    method = make("sa", retain_weight=0.5)
    torch.manual_seed(3)
    loss = method.joint_loss(model, forget, retain)
    torch.manual_seed(3)
    x_u = 2 * torch.rand_like(forget.x_0) - 1
    expected = model.loss(x_u, forget.timesteps, forget.noise, forget.class_labels).mean()
    expected += 0.5 * model.loss(retain.x_0, forget.timesteps, retain.noise, retain.class_labels).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert -1 <= x_u.min() < -0.5
    assert 0.5 < x_u.max() <= 1


def test_it_steps_once_for_both_with_the_penalty_and_no_mask() -> None:
    method = make("sa")
    (phase,) = phases(method, ToyModel(), lambda _: batch([1]), lambda _: batch([0]), None)
    assert phase.name == "retain"
    assert phase.add_gradient is not None
    assert not method.alternates


def test_the_fisher_is_kept_for_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = make("sa", fisher_timesteps=6), make("sa", fisher_timesteps=6)
    first.prepare(ToyModel(), replay(2))
    monkeypatch.setattr("dualoptim_diffusion.unlearning.methods.selective_amnesia.replay_fisher", None)
    again.prepare(ToyModel(), replay(2))
    assert torch.equal(first.fisher["weight"], again.fisher["weight"])
