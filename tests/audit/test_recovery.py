"""Probes beyond the usual ones: noise along the way, rounded weights, membership, likeness to retrained models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dualoptim_diffusion.audit.classifier_guided import guided, told_apart
from dualoptim_diffusion.audit.context import AuditContext, AuditedModel
from dualoptim_diffusion.audit.features import likeness, linear_cka
from dualoptim_diffusion.audit.guide import Guide, guide, slope_of
from dualoptim_diffusion.audit.membership import auc, membership
from dualoptim_diffusion.audit.membership import trials as membership_trials
from dualoptim_diffusion.audit.noise_based import NoisierDDIM
from dualoptim_diffusion.audit.quantise import quantised, round_weights, rounded
from dualoptim_diffusion.core.budget import Budget
from dualoptim_diffusion.core.config import DataConfig, SamplingConfig
from dualoptim_diffusion.core.errors import NonFiniteError
from dualoptim_diffusion.data import load_dataset, split
from dualoptim_diffusion.diffusion.sampling import denoise, make_scheduler
from dualoptim_diffusion.models import model_sha256
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.report.audit_figures import render
from dualoptim_diffusion.runs.evaluate import open_classifier
from dualoptim_diffusion.runs.finished import open_run
from dualoptim_diffusion.runs.obtain import make_accelerator

THREE = 3


@pytest.fixture(scope="module")
def scene(finished: Path) -> AuditContext:
    train, held_out = load_dataset(DataConfig(name="digits"))
    forget_set, retain_set = split(train, [THREE])
    return AuditContext(
        classifier=open_classifier(open_run(finished)), forget_classes=(THREE,), judged_as=(THREE,),
        labels=train.id2label, forget_set=forget_set, retain_set=retain_set, train=train, held_out=held_out,
        settings=SamplingConfig(num_inference_steps=3, batch_size=40),
        budget=Budget(images=4, real_images=30, loss_timesteps=(100, 500)), original=load_model(finished / "model"),
        mask=None, accelerator=make_accelerator("cpu"), horizontal_flip=False,
    )  # fmt: skip


# Rounding


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_rounded_weight_has_few_values_lies_within_half_a_step_and_is_rounded_only_once(bits: int) -> None:
    weight = torch.randn(5, 7, 3, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    small = rounded(weight, bits)
    step = weight.flatten(1).abs().amax(1) / (2 ** (bits - 1) - 1)
    assert all(len(row.unique()) <= 2**bits - 1 for row in small)
    assert ((small - weight).abs().flatten(1).amax(1) <= step / 2 * (1 + 1e-12)).all()
    torch.testing.assert_close(rounded(small, bits), small, rtol=1e-12, atol=0)
    assert rounded(torch.zeros(2, 3), bits).equal(torch.zeros(2, 3))


def test_what_was_changed_by_less_than_half_a_step_comes_back_and_the_probe_sees_it(
    scene: AuditContext, subject: AuditedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = subject.model.network.double()
    round_weights(network, 4)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    with torch.no_grad():  # a model that hides what it knows below the grid; the largest of each row stay
        for p in network.parameters():
            if p.dim() > 1:
                largest = p.flatten(1).abs().amax(1).view(-1, *[1] * (p.dim() - 1))
                p += torch.where(p.abs() < largest, 0.4 * largest / 7, 0.0)
    hidden = AuditedModel("unlearned", subject.model, model_sha256(subject.model))
    drawn_with: list[dict[str, Tensor]] = []

    def count(*_: Any, **__: Any) -> tuple[int, int]:
        drawn_with.append({name: p.detach().clone() for name, p in network.named_parameters()})
        return 0, 1

    monkeypatch.setattr(AuditContext, "count", count)
    assert quantised(scene, hidden)["at"] == [8, 4]
    fine, coarse = drawn_with
    assert any((fine[name] - p).abs().max() > 1e-3 for name, p in before.items() if p.dim() > 1)
    for name, p in before.items():
        torch.testing.assert_close(coarse[name], p, rtol=1e-9, atol=1e-12)


# Noise along the way


def drawn(scheduler: Any, predict: Any, generators: list[torch.Generator]) -> Tensor:
    noise = torch.stack([torch.randn(1, 8, 8, generator=own) for own in generators])
    return denoise(predict, scheduler, noise, [0] * len(generators), scheduler.timesteps, 1.0, generators)


@pytest.mark.numerical
def test_at_scale_1_it_is_ddim_with_eta_1_and_every_image_has_noise_of_its_own() -> None:
    ddim = make_scheduler("ddim")
    ddim.set_timesteps(5)

    class Plain:  # diffusers' own noise, an image at a time
        def __getattr__(self, name: str) -> Any:
            return getattr(ddim, name)

        def step(self, noise_pred: Tensor, t: Tensor, x_t: Tensor, generator: list[torch.Generator]) -> Any:
            return ddim.step(noise_pred, t, x_t, eta=1.0, generator=generator)

    def predict(x_t: Tensor, *_: Any) -> Tensor:
        return 0.3 * x_t

    seeds = [[torch.Generator().manual_seed(i) for i in (5, 6)] for _ in range(3)]
    ours, theirs = drawn(NoisierDDIM(ddim, 1.0), predict, seeds[0]), drawn(Plain(), predict, seeds[1])
    torch.testing.assert_close(ours, theirs)
    alone = drawn(NoisierDDIM(ddim, 1.0), predict, seeds[2][1:])
    torch.testing.assert_close(ours[1:], alone)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_a_model_that_knows_one_image_draws_it_whatever_the_noise(scale: float) -> None:
    ddim = make_scheduler("ddim")
    ddim.set_timesteps(20)
    x_0 = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    abars = ddim.alphas_cumprod

    def predict(x_t: Tensor, t: Tensor, *_: Any) -> Tensor:
        abar = abars[t].view(-1, 1, 1, 1)
        return (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()

    found = drawn(NoisierDDIM(ddim, scale), predict, [torch.Generator().manual_seed(2)])
    torch.testing.assert_close(found[0], x_0, rtol=0, atol=1e-4)


# Guidance by a classifier


@pytest.mark.parametrize("asked", [None, 7])
def test_the_exact_classifier_leads_a_model_of_all_images_to_the_one_of_the_class(asked: int | None) -> None:
    """Images are standard normal, of which the class is one, m: log p(m | x_t) has the slope x - (x - a m) / s^2."""
    ddim = make_scheduler("ddim")
    ddim.set_timesteps(20)
    m = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    labels: list[int] = []

    def spread(t: Tensor) -> Tensor:
        return (1 - ddim.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)

    def of_all(x_t: Tensor, t: Tensor, class_labels: Tensor, _: float) -> Tensor:
        labels.extend(class_labels.tolist())
        return torch.cat([spread(t) * x_t, torch.ones_like(x_t)], 1)  # with a variance, which stays

    def add_noise(x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return x_0 + spread(t) * noise

    def led(scale: float) -> Any:
        def predict(x_t: Tensor, t: Tensor, class_labels: Tensor, s: float) -> Tensor:
            var = spread(t).square()
            exact = guided(of_all, add_noise, lambda x, _: x - (x - (1 - var).sqrt() * m) / var, scale, asked)
            predicted = exact(x_t, t, class_labels, s)
            assert predicted[:, 1:].eq(1).all()
            return predicted

        return predict

    found = drawn(ddim, led(1.0), [torch.Generator().manual_seed(i) for i in range(2)])
    torch.testing.assert_close(found, m.expand(2, 1, 8, 8), rtol=0, atol=1e-4)
    assert {*labels} == {0 if asked is None else asked}
    alone = drawn(ddim, led(0.0), [torch.Generator().manual_seed(0)])
    assert (alone[0] - m).abs().mean() > 0.5


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 6, 5)])
def test_resizing_before_the_classifier_is_bilinear_and_its_gradient_the_transpose(shape: tuple[int, ...]) -> None:
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(8), requires_grad=True)
    resized = Guide(torch.nn.Identity(), shape, 12)(x)
    torch.testing.assert_close(resized, interpolate(x, (12, 12), mode="bilinear"))
    y = torch.randn_like(resized)
    (slope,) = torch.autograd.grad((resized * y).sum(), x)
    torch.testing.assert_close((slope * x).sum(), (resized * y).sum(), rtol=1e-4, atol=1e-4)


def test_the_slope_is_the_gradient_of_the_log_probability_of_each_images_own_answer() -> None:
    source = torch.Generator().manual_seed(6)
    weights = torch.randn(3, 4, dtype=torch.double, generator=source)
    linear = torch.nn.Linear(4, 3, bias=False, dtype=torch.double)
    linear.weight.data = weights
    network = torch.nn.Sequential(torch.nn.Flatten(), linear).requires_grad_(False)
    x = torch.randn(5, 1, 2, 2, dtype=torch.double, generator=source)
    labels = torch.tensor([0, 1, 4, 3, 0])
    with torch.no_grad():
        found = slope_of(network, torch.tensor([2, 0, 2, 1, 2]))(x, labels)
    chosen = weights[torch.tensor([2, 0, 2, 1, 2])] - network(x).softmax(1) @ weights
    torch.testing.assert_close(found.flatten(1), chosen)


def test_the_guide_learns_to_tell_noisy_images_of_the_class_and_says_how_well(
    scene: AuditContext, subject: AuditedModel
) -> None:
    longer = replace(scene, budget=scene.budget.model_copy(update={"guide_steps": 60, "batch_size": 16}))
    network = guide(longer)
    images = scene.held_out
    noise = torch.randn(len(images), *scene.original.x_0_shape, generator=torch.Generator().manual_seed(7))
    x_t = scene.original.add_noise(scene.original.encode(images.images[:]), noise, torch.full((len(images),), 100))
    told, gone = network(x_t).argmax(1).eq(0), images.class_labels == THREE
    assert told[gone].double().mean() > 0.8
    assert told[~gone].double().mean() < 0.2
    again = guide(longer).state_dict()
    assert all(value.equal(again[name]) for name, value in network.state_dict().items())
    figures = told_apart(longer, subject)
    assert figures["timesteps"][0] == 100
    assert figures["found"][0]["value"] > 0.7
    assert figures["false_alarms"][0]["value"] < 0.35  # of 30 images
    curve = {"at": [1.0], "hits": [0], "n": [4], "each": [[[0]]]}
    attack = {"axis": "classifier scale", "outcomes": {"unlearned": curve}}
    _, note = render(
        "classifier_guided", {"null label": attack, "classifier": {"axis": None, "outcomes": {"unlearned": figures}}}
    )
    assert f"{figures['found'][0]['value']:.0%} and {figures['false_alarms'][0]['value']:.0%} at t = 100" in note


def test_a_guide_whose_loss_is_no_number_stops_the_audit(scene: AuditContext, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = replace(scene, budget=scene.budget.model_copy(update={"guide_steps": 3, "seed": 9}))
    monkeypatch.setattr(scene.original, "add_noise", lambda x_0, *_: x_0 * torch.nan)
    with pytest.raises(NonFiniteError, match="At step 1 the loss of the classifier that guides is nan"):
        guide(longer)


# Membership


def test_the_area_is_sklearns_and_its_error_that_of_repeated_draws() -> None:
    from sklearn.metrics import roc_auc_score

    source = torch.Generator().manual_seed(3)
    high, low = torch.randn(40, generator=source) + 0.7, torch.randn(60, generator=source).round(decimals=1)
    area, _ = auc(high.round(decimals=1), low)
    labels, values = [1] * 40 + [0] * 60, torch.cat([high.round(decimals=1), low])
    assert area == pytest.approx(roc_auc_score(labels, values.numpy()))
    draws = [auc(torch.randn(50, generator=source) + 0.7, torch.randn(50, generator=source)) for _ in range(400)]
    areas, errors = (torch.tensor(part) for part in zip(*draws, strict=True))
    assert areas.std().item() == pytest.approx(errors.mean().item(), rel=0.15)


@pytest.mark.parametrize(("of_members", "area"), [(0.5, 1.0), (2.0, 0.0), (1.0, 0.5)])
def test_memory_is_an_area_of_one_over_forgetting_one_of_zero_and_neither_one_half(
    of_members: float, area: float, scene: AuditContext, subject: AuditedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {image.numpy().tobytes() for image in subject.model.encode(scene.train.images[:])}

    def loss(x_0: Tensor, timesteps: Tensor, *_: Any) -> Tensor:
        known = torch.tensor([image.numpy().tobytes() in seen for image in x_0])
        return timesteps * torch.where(known, of_members, 1.0)

    monkeypatch.setattr(subject.model, "loss", loss)
    found = membership(scene, subject)
    assert found["AUC"] == area
    assert found["members"] == 30
    assert found["others"] == int((scene.held_out.class_labels == THREE).sum().clamp(max=30))
    _, note = render("membership", {"loss": {"outcomes": {"unlearned": found}}})
    assert ("over-forgetting" in note) == (area == 0)


def test_without_held_out_images_of_the_class_there_is_no_membership_to_measure(scene: AuditContext) -> None:
    others = scene.held_out.at((scene.held_out.class_labels != THREE).nonzero()[:, 0])
    assert membership_trials(replace(scene, held_out=others)) == []
    assert len(membership_trials(scene)) == 1


# Likeness


def test_features_are_alike_up_to_rotation_and_scale_and_those_of_noise_are_not() -> None:
    source = torch.Generator().manual_seed(4)
    x = torch.randn(200, 6, dtype=torch.double, generator=source)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.double, generator=source)).Q
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    assert max(linear_cka(part, 3 * part) for part in x.split(4)) == 1  # rounding would exceed it
    assert linear_cka(x, torch.randn(200, 6, dtype=torch.double, generator=source)) < 0.1
    assert linear_cka(x, torch.ones(200, 2)) == 0


def test_likeness_is_the_kernel_form_of_its_definition() -> None:
    source = torch.Generator().manual_seed(5)
    x, y = (torch.randn(30, width, dtype=torch.double, generator=source) for width in (4, 9))
    middle = torch.eye(30, dtype=torch.double) - 1 / 30
    k, m = (middle @ part @ part.T @ middle for part in (x, y))
    expected = (k * m).sum() / (k.norm() * m.norm())
    assert linear_cka(x, y) == pytest.approx(expected.item())


def test_a_control_is_compared_with_the_others_alone(scene: AuditContext, subject: AuditedModel) -> None:
    fresh = subject.model.frozen_copy()
    torch.manual_seed(0)
    fresh.network.load_state_dict(subject.model.fresh_network().state_dict())
    other = AuditedModel("control", fresh, model_sha256(fresh))
    both = replace(scene, controls=(subject, other))
    assert likeness(both, subject) == likeness(replace(scene, controls=(other,)), subject)
    assert likeness(replace(scene, controls=(subject,)), subject) == {"forgotten": None, "retained": None}
    assert 0 <= likeness(both, subject)["forgotten"] < 0.999
    assert np.isclose(likeness(replace(scene, controls=(replace(subject, sha256="x"),)), subject)["retained"], 1)
