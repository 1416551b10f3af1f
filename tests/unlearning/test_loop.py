"""The loop: order of updates, decays, masks and clips; stopping before a bad step."""

import copy
from collections.abc import Callable
from math import cos, pi

import pytest
import torch
from torch import nn

from dualoptim_diffusion import DualOptim, MaskedAdamW, Phase, unlearn
from dualoptim_diffusion.core.errors import NonFiniteError
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.optim.mask_indices import smaller_form
from dualoptim_diffusion.unlearning.loop import edit_gradients
from tests.helpers.operators import Operators


def sgd_pair(model: nn.Module, forget_lr: float = 1.0, retain_lr: float = 1.0) -> DualOptim:
    return DualOptim(
        torch.optim.SGD(model.parameters(), lr=forget_lr), torch.optim.SGD(model.parameters(), lr=retain_lr)
    )


def fused_pair(model: nn.Module) -> DualOptim:
    return DualOptim(*(torch.optim.Adam(model.parameters(), lr=0.1, fused=True) for _ in range(2)))


def line() -> nn.Linear:
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    return model


def test_updates_are_numbered_over_the_whole_run_and_phases_alternate() -> None:
    model, seen = line(), []

    def loss(name: str):
        def numbered(update: int) -> torch.Tensor:
            seen.append((name, update))
            return model.weight.sum()

        return numbered

    phases = [Phase("forget", loss("forget"), steps=1), Phase("retain", loss("retain"), steps=2)]
    unlearn(model, sgd_pair(model), phases, num_steps=2)
    assert seen == [("forget", 0), ("retain", 0), ("retain", 1), ("forget", 1), ("retain", 2), ("retain", 3)]


def test_the_forget_weight_and_each_rate_decay_by_their_own_schedule() -> None:
    model, weights, rates = line(), [], []
    optimizers = sgd_pair(model, forget_lr=1.0, retain_lr=1.0)
    before = torch.zeros(2, dtype=torch.float64)

    def note(step: int, record: dict[str, float]) -> None:
        nonlocal before
        weights.append(record["forget_weight"])
        now = model.weight.detach()[0].clone()
        rates.append((before - now).tolist())
        before = now

    phases = [
        Phase("forget", lambda _: model.weight[0, 0], weight=2.0, weight_schedule="cosine", lr_schedule="constant"),
        Phase("retain", lambda _: model.weight[0, 1], lr_schedule="cosine"),
    ]
    unlearn(model, optimizers, phases, num_steps=4, on_step=note)
    decay = [(1 + cos(pi * k / 4)) / 2 for k in range(4)]
    assert weights == [2 * d for d in decay]
    for (forget_move, retain_move), d in zip(rates, decay, strict=True):
        assert forget_move == pytest.approx(2 * d, abs=1e-12)  # alpha_k, constant rate
        assert retain_move == pytest.approx(d, abs=1e-12)  # weight 1, decayed rate


@pytest.mark.parametrize(("clip_first", "expected"), [(False, [0.0, 1.0]), (True, [0.0, 0.8])])
def test_mask_then_clip_and_clip_then_mask_differ_as_stated(clip_first: bool, expected: list[float]) -> None:
    model = line()
    model.weight.grad = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    edit_gradients(model, {"weight": torch.tensor([[False, True]])}, clip_norm=1.0, clip_first=clip_first)
    assert model.weight.grad[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_each_step_logs_both_losses_both_norms_before_clipping_and_the_cosine_of_the_gradients() -> None:
    model, records = line(), []
    phases = [
        Phase("forget", lambda _: -3.0 * model.weight[0, 0], clip_norm=1.0),
        Phase("retain", lambda _: 4.0 * model.weight[0, 0] + 3.0 * model.weight[0, 1], clip_norm=1.0, steps=2),
    ]
    unlearn(model, sgd_pair(model, 0.0, 0.0), phases, 2, on_step=lambda _, record: records.append(record))
    for record in records:
        assert record["forget_grad_norm"] == pytest.approx(3.0)
        assert record["retain_grad_norm"] == pytest.approx(5.0)
        assert record["gradient_cosine"] == pytest.approx(-0.8)
        assert {"forget_loss", "retain_loss"} <= record.keys()
    records.clear()
    unlearn(model, sgd_pair(model), phases, 1, on_step=lambda _, record: records.append(record), log_cosine=False)
    assert "gradient_cosine" not in records[0]


def test_the_cosine_of_phases_that_train_different_weights_or_nothing_is_zero() -> None:
    model, cosines = nn.Sequential(line(), line()), []
    for retain in (lambda _: model[1].weight.sum(), lambda _: 0.0 * model[0].weight.sum()):
        phases = [Phase("forget", lambda _: model[0].weight.sum()), Phase("retain", retain)]
        unlearn(model, sgd_pair(model), phases, 1, on_step=lambda _, record: cosines.append(record["gradient_cosine"]))
    assert cosines == [0.0, 0.0]


def test_an_added_gradient_comes_before_the_clip() -> None:
    model, norms = line(), []

    def add() -> None:
        model.weight.grad += torch.tensor([[0.0, 4.0]], dtype=torch.float64)

    phase = Phase("retain", lambda _: 3.0 * model.weight[0, 0], clip_norm=1.0, add_gradient=add)
    unlearn(model, sgd_pair(model), [phase], 1, on_step=lambda _, record: norms.append(record["retain_grad_norm"]))
    assert norms == [pytest.approx(5.0)]
    assert model.weight.detach()[0].tolist() == pytest.approx([-0.6, -0.8], abs=1e-6)


def test_an_infinite_gradient_off_the_mask_becomes_zero_not_nan() -> None:
    model = line()
    model.weight.grad = torch.tensor([[float("inf"), 0.5]], dtype=torch.float64)
    norm = edit_gradients(model, {"weight": torch.tensor([[False, True]])}, clip_norm=None, clip_first=False)
    assert model.weight.grad[0].tolist() == [0.0, 0.5]
    assert norm.item() == 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("phase", ["forget", "retain"])
def test_a_non_finite_loss_stops_before_the_step_and_names_phase_and_step(bad: float, phase: str) -> None:
    model = line()

    def loss(name: str):
        return lambda update: model.weight.sum() * (bad if (name, update) == (phase, 1) else 1.0)

    snapshots = []
    with pytest.raises(NonFiniteError, match=f"{phase} phase of step 1"):
        unlearn(
            model,
            sgd_pair(model),
            [Phase("forget", loss("forget")), Phase("retain", loss("retain"))],
            num_steps=3,
            on_step=lambda *_: snapshots.append(model.weight.detach().clone()),
        )
    moved = 0.0 if phase == "forget" else -1.0  # only the good forget step of the second round was made
    assert torch.equal(model.weight.detach(), snapshots[-1] + moved)


@pytest.mark.parametrize(
    ("pair", "reads"), [(sgd_pair, 6), (fused_pair, 3)], ids=["one an update", "one an outer step"]
)
@pytest.mark.parametrize("masked", [False, True])
def test_the_loop_reads_from_the_device_once(
    monkeypatch: pytest.MonkeyPatch, masked: bool, pair: Callable[[nn.Module], DualOptim], reads: int
) -> None:
    model, together = line(), []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: together.append(1) or tolist(t))
    mask = {"weight": torch.tensor([[True, False]])} if masked else None
    phases = [Phase(name, lambda _: model.weight.sum(), mask=mask, clip_norm=1.0) for name in ("forget", "retain")]
    with Operators() as counter:
        unlearn(model, pair(model), phases, num_steps=3, log_cosine=reads == 3)
    assert (len(together), counter.reads) == (reads, 0)


@pytest.mark.parametrize("phase", ["forget", "retain"])
@pytest.mark.parametrize("compact", [False, True])
def test_a_fused_optimizer_skips_the_bad_step_and_all_after_it_before_anything_is_read(
    phase: str, compact: bool
) -> None:
    model, kept = line(), []
    pair = fused_pair(model)
    if compact:
        mask = torch.ones(1, 2, dtype=torch.bool)
        pair = DualOptim(*(MaskedAdamW(model.parameters(), [mask], lr=0.1, fused=True) for _ in range(2)))

    def loss(name: str) -> Callable[[int], torch.Tensor]:
        return lambda update: model.weight.sum() * (float("nan") if (name, update) == (phase, 4) else 1.0)

    def keep(finished: int, _: object) -> None:  # the last good outer step: T_f = 2 and T_r = 2
        kept[:] = [copy.deepcopy(part) for part in (model.state_dict(), pair.state_dict())]

    phases = [Phase("forget", loss("forget"), steps=2), Phase("retain", loss("retain"), steps=2)]
    with pytest.raises(NonFiniteError, match=f"{phase} phase of step 2"):
        unlearn(model, pair, phases, num_steps=4, on_step=keep)
    before, states = kept
    if phase == "forget":  # its first update: weights and both states are as step 1 left them
        assert torch.equal(model.weight, before["weight"])
        torch.testing.assert_close(pair.state_dict(), states, rtol=0, atol=0)
    else:  # the two good forget updates alone were made
        assert not torch.equal(model.weight, before["weight"])
        torch.testing.assert_close(pair.retain.state_dict(), states["retain"], rtol=0, atol=0)


def test_first_step_continues_as_if_unbroken() -> None:
    def run(cuts: list[int]) -> torch.Tensor:
        model = line()
        optimizers = DualOptim(*(torch.optim.Adam(model.parameters(), 0.1) for _ in range(2)))
        phases = [
            Phase("forget", lambda u: -((model.weight.sum() - u) ** 2), lr_schedule="cosine", weight_schedule="cosine"),
            Phase("retain", lambda u: (model.weight.sum() + u) ** 2),
        ]
        for first, last in zip([0, *cuts], [*cuts, 6], strict=True):
            if last == 6:
                unlearn(model, optimizers, phases, 6, first_step=first)
            else:
                with pytest.raises(KeyboardInterrupt):
                    unlearn(model, optimizers, phases, 6, first_step=first, on_step=interrupt_after(last))
        return model.weight.detach()

    def interrupt_after(step: int):
        def check(finished: int, _: object) -> None:
            if finished == step:
                raise KeyboardInterrupt

        return check

    assert torch.equal(run([]), run([2, 4]))


def test_the_moving_average_is_the_closed_form_sum() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    ema = EMA(model, 0.9)
    for step, value in enumerate([1.0, 2.0, 3.0]):
        nn.init.constant_(model.weight, value)
        ema.update(model, step)
    expected = 0.1 * (0.9**2 * 1 + 0.9 * 2 + 3)
    assert ema.state_dict()["weight"].item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.numerical
@pytest.mark.parametrize("density", [0.1, 0.6])
def test_a_mask_in_its_smaller_form_edits_gradients_in_the_same_way(density: float) -> None:
    torch.manual_seed(0)
    network = nn.Linear(30, 20).double()
    mask = {name: torch.rand_like(p) < density for name, p in network.named_parameters()}
    edited = []
    for form in (mask, {name: smaller_form(part) for name, part in mask.items()}):
        for p in network.parameters():
            p.grad = torch.full_like(p, 3.0)
        network.weight.grad.view(-1)[(~mask["weight"]).flatten().nonzero()[0]] = float("inf")
        norm = edit_gradients(network, form, 1.0, clip_first=False)
        edited.append([norm, *(p.grad for p in network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*edited, strict=True))
    assert edited[0][0] == pytest.approx(3 * sum(int(m.sum()) for m in mask.values()) ** 0.5, rel=1e-12)
    assert smaller_form(mask["weight"]).dtype == (torch.int32 if density < 0.25 else torch.bool)
