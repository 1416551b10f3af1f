"""The diffusion process agrees with diffusers and with its own identities."""

import diffusers
import pytest
import torch

from dualoptim_diffusion.diffusion.process import (
    add_noise,
    antithetic_timesteps,
    denoising_loss,
    guided_noise_pred,
    linear_alphas_cumprod,
)
from dualoptim_diffusion.diffusion.randomness import draw_examples, draw_update, epoch_indices, generator
from dualoptim_diffusion.diffusion.sampling import draw, make_scheduler, padded_chunks
from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT


@pytest.mark.numerical
def test_add_noise_equals_diffusers_scheduler() -> None:
    scheduler = diffusers.DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    x_0, noise = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64)
    timesteps = torch.tensor([0, 1, 250, 500, 998, 999])
    assert torch.equal(linear_alphas_cumprod(), scheduler.alphas_cumprod)
    ours = add_noise(x_0, noise, timesteps, linear_alphas_cumprod().double())  # as the scheduler widens its own
    torch.testing.assert_close(ours, scheduler.add_noise(x_0, noise, timesteps), rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 7, 128])
def test_timesteps_come_in_antithetic_pairs(n: int) -> None:
    t = antithetic_timesteps(n, 1000, generator(0))
    half = n // 2 + 1
    assert t.shape == (n,)
    assert t.min() >= 0
    assert t.max() <= 999
    assert torch.equal(t[half:], 999 - t[: n - half])


def test_a_dit_is_trained_on_timesteps_each_by_itself() -> None:
    assert ConditionalDDPM.antithetic
    assert not ConditionalDiT.antithetic
    sizes = {"batch_size": 64, "num_examples": 5, "shape": (1, 2, 2), "num_train_timesteps": 1000, "label_drop": 0.5}
    paired, single = (draw_update(0, "x", 0, **sizes, antithetic=flag).timesteps for flag in (True, False))
    assert torch.equal(paired[33:], 999 - paired[:31])
    assert not torch.equal(single[33:], 999 - single[:31])
    counts = torch.cat([draw_update(0, "x", u, **sizes, antithetic=False).timesteps for u in range(400)]) // 100
    assert counts.bincount(minlength=10).double().div(2560).sub(1).abs().max() < 0.1


@pytest.mark.numerical
def test_guidance_is_one_batched_call_and_keeps_its_identities() -> None:
    calls = []

    def predict(x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(len(x_t))
        return x_t * 0 + labels.view(-1, 1, 1, 1).double()

    x_t, t, labels = torch.randn(3, 1, 2, 2, dtype=torch.float64), torch.zeros(3).long(), torch.tensor([1, 2, 3])
    cond, null = labels.view(-1, 1, 1, 1).double(), 10.0
    for scale in (0.0, 1.0, 1.5, 3.0):
        guided = guided_noise_pred(predict, x_t, t, labels, 10, scale)
        published = (1 + (scale - 1)) * cond - (scale - 1) * null  # (1 + w) cond - w null
        torch.testing.assert_close(guided, published.expand_as(x_t), rtol=0, atol=1e-12)
    assert calls == [6, 3, 6, 6]


def test_guidance_leaves_a_learned_variance_to_the_conditional_model() -> None:
    def predict(x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return labels.view(-1, 1, 1, 1).float().expand(-1, 4, 2, 2)

    both = guided_noise_pred(predict, torch.zeros(2, 2, 2, 2), torch.zeros(2).long(), torch.tensor([1, 2]), 10, 3.0)
    assert both[:, :2].flatten(1).unique(dim=1)[:, 0].tolist() == [10 + 3 * (1 - 10), 10 + 3 * (2 - 10)]
    assert both[:, 2:].flatten(1).unique(dim=1)[:, 0].tolist() == [1, 2]


def test_the_loss_sums_over_pixels_and_keeps_the_batch() -> None:
    noise, pred = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4) * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    assert denoising_loss(pred, noise).tolist() == [48.0, 192.0]


def test_schedulers_neither_clip_nor_start_early() -> None:
    for name in ("ddpm", "ddim", "dpmsolver++"):
        scheduler = make_scheduler(name)
        scheduler.set_timesteps(50)
        assert scheduler.timesteps[0] == 999
        assert scheduler.init_noise_sigma == 1
        assert not scheduler.config.get("clip_sample", False)


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++", "ddpm"])
@pytest.mark.parametrize("learned_variance", [False, True])
def test_drawing_never_asks_the_device_for_a_value(name: str, learned_variance: bool) -> None:
    seen: list[torch.Tensor] = []

    def predict(x_t: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor, scale: float) -> torch.Tensor:
        seen.append(timesteps)
        return torch.cat([x_t, x_t], 1) if learned_variance else x_t

    scheduler = make_scheduler(name, learned_variance)
    device = torch.device("meta")  # its tensors have no values: reading one raises
    x_0 = draw(predict, scheduler, (3, 8, 8), [0, 1], [0, 1], 10, 1.0, device)
    assert x_0.shape == (2, 3, 8, 8)
    assert len(seen) == 10
    assert all(t.device == device and t.dtype == torch.int64 and t.shape == (2,) for t in seen)


def test_chunks_are_padded_to_one_size_and_lose_nothing() -> None:
    chunks = list(padded_chunks(range(10), 4))
    assert [len(padded) for _, padded in chunks] == [4, 4, 4]
    assert [seed for kept, _ in chunks for seed in kept] == list(range(10))
    assert chunks[-1][1] == [8, 9, 9, 9]


def test_every_epoch_shows_each_image_once() -> None:
    seen = torch.cat([epoch_indices(0, "retain", update, 4, 10) for update in range(5)])
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:].tolist()) == list(range(10))
    assert not torch.equal(seen[:10], seen[10:])


def test_draws_depend_on_the_counter_alone() -> None:
    sizes = {"batch_size": 8, "num_examples": 5, "shape": (1, 2, 2), "num_train_timesteps": 1000, "label_drop": 0.5}

    def draw(seed: int, phase: str, update: int, posterior: bool = True):
        return draw_update(seed, phase, update, **sizes, posterior=posterior)

    first = draw(0, "forget", 3)
    torch.manual_seed(123)
    draw(0, "retain", 0)
    assert all(torch.equal(a, b) for a, b in zip(first, draw(0, "forget", 3), strict=True))
    for other in (draw(1, "forget", 3), draw(0, "retain", 3), draw(0, "forget", 4)):
        assert not torch.equal(first.noise, other.noise)
    plain = draw(0, "forget", 3, posterior=False)
    assert plain.posterior_noise is None
    assert all(torch.equal(a, b) for a, b in zip(first[:5], plain[:5], strict=True))
    for examples, whole in zip(draw_examples(0, "forget", 3, 8, 5), first, strict=False):
        assert torch.equal(examples, whole)


def test_labels_are_dropped_at_the_stated_rate() -> None:
    draws = [
        draw_update(
            0, "x", u, batch_size=100, num_examples=100, shape=(1,), num_train_timesteps=10, label_drop=0.1
        ).label_drops
        for u in range(100)
    ]
    rate = torch.cat(draws).double().mean().item()
    assert abs(rate - 0.1) < 5 * (0.1 * 0.9 / 10_000) ** 0.5
