"""Each method's losses against its formulas, and the masks."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dualoptim_diffusion.core.config import FisherRatioMask, MethodConfig, TopFractionMask
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import Batch, Batches, ImageSet, load_dataset, split
from dualoptim_diffusion.data.datasets import DataConfig
from dualoptim_diffusion.files.weight_files import weights_sha256
from dualoptim_diffusion.unlearning.methods import METHODS, find_method, phases
from dualoptim_diffusion.unlearning.saliency import (
    compute_mask,
    density,
    diagonal_fisher,
    fisher_ratio_mask,
    gradients,
    load_mask,
    save_mask,
    top_fraction_mask,
)
from tests.helpers.toy_model import ToyModel, batch, make


@pytest.mark.numerical
def test_sfron_weighs_each_sample_by_the_formula() -> None:
    model, b = ToyModel(), batch([1] * 5)
    losses = model.loss(b.x_0, b.timesteps, b.noise, b.dropped_labels).tolist()
    w = [1 / (value**0.5 + 1e-8) for value in losses]
    expected = -sum(5 * (wi / sum(w)) * li for wi, li in zip(w, losses, strict=True)) / 5
    assert make("sfron").forget_loss(model, b).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.numerical
def test_sfron_weights_carry_no_gradient() -> None:
    model, b = ToyModel(), batch([1] * 4)
    make("sfron").forget_loss(model, b).backward()
    ours = model.network.weight.grad.clone()
    model.network.zero_grad()
    losses = model.loss(b.x_0, b.timesteps, b.noise, b.dropped_labels)
    weights = (1 / (losses.detach().sqrt() + 1e-8)).detach()
    (-(weights / weights.sum() * losses).sum()).backward()
    assert torch.allclose(ours, model.network.weight.grad, rtol=1e-12)


@pytest.mark.numerical
def test_a_batch_cut_over_processes_gives_the_mean_of_its_parts() -> None:
    model, whole = ToyModel(), batch([1] * 6)
    losses = model.loss(whole.x_0, whole.timesteps, whole.noise, whole.dropped_labels)
    mean = (1 / (losses.detach().sqrt() + 1e-8)).mean()
    parts = []
    for part in (slice(0, 3), slice(3, 6)):
        method = find_method("sfron")(MethodConfig(name="sfron"), (1,), 4, lambda _: mean)
        fields = (f[part] for f in (whole.x_0, whole.timesteps, whole.noise, whole.class_labels, whole.dropped_labels))
        parts.append(method.forget_loss(model, Batch(*fields)))
    expected = make("sfron").forget_loss(model, whole)
    assert (sum(parts) / 2).item() == pytest.approx(expected.item(), rel=1e-12)


def test_gradient_ascent_is_the_negative_mean_loss() -> None:
    model, b = ToyModel(), batch([1] * 4)
    expected = -model.loss(b.x_0, b.timesteps, b.noise, b.dropped_labels).mean()
    assert torch.equal(make("gradient_ascent").forget_loss(model, b), expected)


def test_salun_matches_the_next_retained_class_cyclically() -> None:
    labels, model = torch.arange(4), ToyModel()
    assert make("salun", (1,)).substitutes(labels, model)[1] == 2
    assert make("salun", (3,)).substitutes(labels, model)[3] == 0
    assert make("salun", (2, 3)).substitutes(labels, model)[2:].tolist() == [0, 0]
    model.forgotten = ["c", "d"]  # by runs before
    assert make("salun", (1,)).substitutes(labels, model)[1] == 0


@pytest.mark.numerical
def test_salun_pulls_the_forgotten_row_to_a_fixed_target() -> None:
    model, b = ToyModel(), batch([1] * 4)
    loss = make("salun").forget_loss(model, b)
    x_t = model.add_noise(b.x_0, b.noise, b.timesteps)
    w = model.network.weight.detach()
    assert loss.item() == pytest.approx(((w[1] - w[2]) ** 2 * x_t.square().mean()).item(), rel=1e-12)
    loss.backward()
    gradient = model.network.weight.grad
    assert gradient[1] != 0
    assert not gradient[[0, 2, 3, 4]].any()


def test_salun_masks_both_phases_when_alternating_and_clips_first_when_joint() -> None:
    model, mask = ToyModel(), {"weight": torch.ones(5, dtype=torch.bool)}
    alternate = phases(make("salun"), model, lambda _: batch([1]), lambda _: batch([0]), mask)
    joint = phases(make("salun", update="joint"), model, lambda _: batch([1]), lambda _: batch([0]), mask)
    assert [(p.name, p.mask is mask, p.clip_first) for p in alternate] == [
        ("forget", True, False),
        ("retain", True, False),
    ]
    assert [(p.name, p.mask is mask, p.clip_first) for p in joint] == [("retain", True, True)]


@pytest.mark.numerical
def test_a_joint_step_adds_the_weighted_retain_loss() -> None:
    model, forget, retain = ToyModel(), batch([1] * 3), batch([0, 2, 3], seed=1)
    method = make("salun", update="joint", retain_weight=0.05)
    (phase,) = phases(method, model, lambda _: forget, lambda _: retain, None)
    expected = method.forget_loss(model, forget) + 0.05 * method.retain_loss(model, retain)
    assert phase.loss(0).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.numerical
def test_null_matching_pulls_the_forgotten_row_to_the_base_models_null_row() -> None:
    model, b, method = ToyModel(), batch([1] * 4), make("null_matching")
    method.prepare(model, None)
    own, target = model.network.weight[[1, 4]].tolist()
    with torch.no_grad():
        model.network.weight[4] = 7.0  # the target is the frozen model's, whatever the null row becomes
    loss = method.forget_loss(model, b)
    x_t = model.add_noise(b.x_0, b.noise, b.timesteps)
    assert loss.item() == pytest.approx(((own - target) ** 2 * x_t.square().mean()).item(), rel=1e-12)
    loss.backward()
    assert model.network.weight.grad[[0, 2, 3, 4]].tolist() == [0, 0, 0, 0]
    assert own < target
    assert model.network.weight.grad[1] < 0  # so descent raises the row towards the target


@pytest.mark.numerical
def test_negative_guidance_moves_the_target_of_null_matching_away_from_the_class() -> None:
    model, b, method = ToyModel(), batch([1] * 4), make("null_matching", negative_guidance=0.5)
    method.prepare(model, None)
    own, null = model.network.weight[[1, 4]].tolist()
    target = null - 0.5 * (own - null)
    with torch.no_grad():
        model.network.weight[1] = 7.0  # the target is the frozen model's, whatever the forgotten row becomes
    x_t = model.add_noise(b.x_0, b.noise, b.timesteps)
    assert method.forget_loss(model, b).item() == pytest.approx(
        ((7.0 - target) ** 2 * x_t.square().mean()).item(), rel=1e-12
    )


@pytest.mark.numerical
def test_ascent_ends_for_the_samples_above_the_ceiling_and_for_no_other() -> None:
    model, b = ToyModel(), batch([1] * 6)
    null = torch.full_like(b.class_labels, 4)
    ratio = model.loss(b.x_0, b.timesteps, b.noise, b.class_labels) / model.loss(b.x_0, b.timesteps, b.noise, null)
    ceiling = ratio.median().item()
    below = ratio < ceiling
    assert 0 < below.sum() < 6
    b = Batch(b.x_0, b.timesteps, b.noise, b.class_labels, b.class_labels)
    method = make("gradient_ascent", forget_ceiling=ceiling)
    method.prepare(model, None)
    method.forget_loss(model, b).backward()
    ours = model.network.weight.grad.clone()
    model.network.zero_grad()
    losses = model.loss(b.x_0, b.timesteps, b.noise, b.class_labels)
    (-losses[below].sum() / 6).backward()
    assert torch.allclose(ours, model.network.weight.grad, rtol=1e-12)
    assert make("sfron").copies == 0
    assert make("sfron", forget_ceiling=2.0).copies == 1


def test_sfron_masks_the_forget_phase_alone_and_finetune_has_no_other() -> None:
    model, mask = ToyModel(), {"weight": torch.ones(5, dtype=torch.bool)}
    sfron = phases(make("sfron"), model, lambda _: batch([1]), lambda _: batch([0]), mask)
    assert [(p.name, p.mask) for p in sfron] == [("forget", mask), ("retain", None)]
    assert [p.name for p in phases(make("finetune"), model, lambda _: batch([1]), lambda _: batch([0]), None)] == [
        "retain"
    ]


def test_the_retain_phase_can_go_unclipped() -> None:
    def clipping(**settings: object) -> list[float | None]:
        built = phases(make("sfron", **settings), ToyModel(), lambda _: batch([1]), lambda _: batch([0]), None)
        return [phase.clip_norm for phase in built]

    assert clipping() == [1.0, 1.0]
    assert clipping(clip_retain=False) == [1.0, None]


def test_steps_per_class_count_the_forgotten_classes() -> None:
    assert make("sfron", (1, 2), num_steps=7).num_steps == 7
    assert make("sfron", (1, 2), num_steps=7, num_steps_per="class").num_steps == 14
    assert make("sfron", (1,), num_steps=7, num_steps_per="class").num_steps == 7


def test_the_registry_names_its_neighbours() -> None:
    assert set(METHODS) == {"sa", "sfron", "salun", "null_matching", "gradient_ascent", "finetune", "retrain"}
    with pytest.raises(InputError, match="did you mean sfron"):
        find_method("sfronn")
    with pytest.raises(InputError, match="expected alternate for sfron"):
        METHODS["sfron"].check_update(MethodConfig(name="sfron", update="joint"))


@pytest.mark.numerical
def test_the_fisher_of_a_linear_model_is_its_closed_form() -> None:
    model = ToyModel()
    batches = [batch([0, 1, 2], seed=s) for s in range(3)]
    fisher = diagonal_fisher(gradients(model, batches.__getitem__, 3, "plain", "test"))
    expected = torch.zeros(5, dtype=torch.float64)
    for b in batches:  # d/dw_c of mean_i sum (noise - w x_t)^2
        x_t = model.add_noise(b.x_0, b.noise, b.timesteps)
        residual = b.noise - x_t * model.network.weight.detach()[b.class_labels].view(-1, 1, 1, 1)
        per_sample = (-2 * residual * x_t).flatten(1).sum(1) / 3
        gradient = torch.zeros(5, dtype=torch.float64).index_add(0, b.class_labels, per_sample)
        expected += gradient.square() / 3
    assert torch.allclose(fisher["weight"], expected, rtol=1e-12)
    assert "unused" not in fisher


@pytest.mark.numerical
def test_the_published_estimator_guides_by_three_and_clips_to_one() -> None:
    model, b = ToyModel(), batch([0, 1])
    (gradient,) = (dict(g) for g in gradients(model, lambda _: b, 1, "published", "test"))
    model.network.zero_grad()
    model.loss(b.x_0, b.timesteps, b.noise, b.class_labels, 3.0).mean().backward()
    raw = model.network.weight.grad
    assert raw.norm() > 1
    assert torch.allclose(gradient["weight"], raw / (raw.norm() + 1e-6), rtol=1e-9)


def test_the_ratio_mask_compares_elementwise_and_leaves_out_what_got_no_gradient() -> None:
    parameters = {"a": torch.zeros(4), "unused": torch.zeros(2)}
    forget, retain = {"a": torch.tensor([3.0, 2.9, 1.0, 0.0])}, {"a": torch.tensor([1.0, 1.0, 0.0, 0.0])}
    mask = fisher_ratio_mask(forget, retain, parameters, 3.0)
    assert mask["a"].tolist() == [True, False, True, False]
    assert fisher_ratio_mask(forget, retain, parameters, 1.0)["unused"].tolist() == [False, False]


def test_the_top_fraction_is_taken_over_all_parameters_of_the_summed_gradient() -> None:
    parameters = {"a": torch.zeros(2), "b": torch.zeros(4)}
    steps = [
        {"a": torch.tensor([9.0, 1.0]), "b": torch.tensor([2.0, -3.0, 0.1, 0.0])},
        {"a": torch.tensor([-9.0, 0.0]), "b": torch.tensor([2.0, -3.0, 0.0, 0.0])},
    ]
    mask = top_fraction_mask(iter(steps), parameters, 0.5)
    assert mask["a"].tolist() == [False, True]  # 9 - 9 cancels: summed, then its magnitude
    assert mask["b"].tolist() == [True, True, False, False]


@pytest.mark.parametrize("kind", ["fisher_ratio", "top_fraction"])
def test_a_mask_survives_its_file_and_is_refused_elsewhere(tmp_path: Path, kind: str) -> None:
    model = ToyModel()
    config = FisherRatioMask(kind=kind) if kind == "fisher_ratio" else TopFractionMask(kind=kind)
    mask = compute_mask(config, model, lambda i: batch([1], i), lambda i: batch([0, 2, 3], i), (2, 2))
    origin = {"model_sha256": weights_sha256(model.network.state_dict()), "forget_classes": ["b"]}
    save_mask(tmp_path / "m.safetensors", mask, origin)
    loaded = load_mask(tmp_path / "m.safetensors", model, {1: "b"})
    assert all(torch.equal(mask[name], loaded[name]) for name in mask)
    assert 0 < density(loaded) < 1
    with pytest.raises(InputError, match=r"to forget \['b'\]"):
        load_mask(tmp_path / "m.safetensors", model, {2: "c"})
    with pytest.raises(InputError, match="of another model"):
        load_mask(tmp_path / "m.safetensors", SimpleNamespace(network=nn.Linear(2, 2)), {1: "b"})
    nn.init.zeros_(model.network.weight)
    with pytest.raises(InputError, match="other weights"):
        load_mask(tmp_path / "m.safetensors", model, {1: "b"})


def test_forget_and_retain_sets_are_disjoint_and_exhaustive() -> None:
    train, held_out = load_dataset(DataConfig(name="digits"))
    assert len(train) + len(held_out) == 1797
    forget, retain = split(train, (3, 8))
    assert set(forget.class_labels.tolist()) == {3, 8}
    assert set(retain.class_labels.tolist()) == set(range(10)) - {3, 8}
    assert len(forget) + len(retain) == len(train)
    rows = {tuple(image.flatten().tolist()) for image in held_out.images}
    assert not rows & {tuple(image.flatten().tolist()) for image in train.images}


def test_an_empty_forget_set_is_refused() -> None:
    empty = ImageSet(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0]), {0: "a", 1: "b"})
    with pytest.raises(InputError, match="forget set is empty when forgetting b"):
        split(empty, (1,))


def test_processes_share_one_global_batch() -> None:
    train, _ = load_dataset(DataConfig(name="digits"))
    options = {"seed": 0, "phase": "retain", "batch_size": 12}
    whole = Batches(train, ToyModel(), **options)(5)
    for count in (2, 4):
        parts = [Batches(train, ToyModel(), **options, process=(i, count))(5) for i in range(count)]
        for field in ("x_0", "timesteps", "noise", "class_labels", "dropped_labels"):
            assert torch.equal(getattr(whole, field), torch.cat([getattr(part, field) for part in parts]))
    with pytest.raises(InputError, match="does not divide among 5"):
        Batches(train, ToyModel(), **options, process=(0, 5))


def test_flips_mirror_the_drawn_half_and_nothing_else() -> None:
    train, _ = load_dataset(DataConfig(name="digits"))
    plain, flipped = (
        Batches(train, ToyModel(), seed=0, phase="x", batch_size=64, horizontal_flip=flip)(0).x_0
        for flip in (False, True)
    )
    same = [torch.equal(a, b) for a, b in zip(plain, flipped, strict=True)]
    mirrored = [torch.equal(a.flip(-1), b) for a, b in zip(plain, flipped, strict=True)]
    assert all(s or m for s, m in zip(same, mirrored, strict=True))
    assert 16 < sum(same) < 48
