"""The audit: attacks leave models as they were, say the same twice, tell hidden from gone, and never judge alone."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor

from dualoptim_diffusion.audit.attack import restored, table_scale
from dualoptim_diffusion.audit.context import AuditContext, AuditedModel
from dualoptim_diffusion.audit.embedding_attack import attack
from dualoptim_diffusion.audit.inversion import reconstruction
from dualoptim_diffusion.audit.noisy_start import recovered
from dualoptim_diffusion.audit.probes import PROBES
from dualoptim_diffusion.audit.relearn import relearn
from dualoptim_diffusion.audit.verdict import correlation, decide, excesses, headline, pool, steps_to_half, worth
from dualoptim_diffusion.audit.weights import distances
from dualoptim_diffusion.cli.audit import BudgetOption
from dualoptim_diffusion.core.budget import BUDGETS, PROBE_NAMES, USUAL, Budget
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.diffusion.randomness import derive_seed
from dualoptim_diffusion.diffusion.sampling import denoise, make_scheduler
from dualoptim_diffusion.files.cache import cache_entry
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT, DiTModule, UNetModule, model_sha256
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.models.stock import fold
from dualoptim_diffusion.report.audits import section, sentence
from tests.helpers.commands import Outcome
from tests.helpers.numerics import rounding

Command = Callable[..., Outcome]
THREE = 3
SMALL = (
    "audit.images=4",
    "audit.labels=2",
    "audit.guidance_scales=[0,3]",
    "audit.ddpm_steps=3",
    "audit.relearn=[1,retained]",
    "audit.relearn_steps=[0,1,2]",
    "audit.embedding_steps=[0,1]",
    "audit.batch_size=4",
    "audit.real_images=6",
    "audit.timesteps=[400]",
    "audit.loss_timesteps=[100,900]",
    "audit.guide_steps=2",
)


@pytest.mark.parametrize("name", PROBE_NAMES)
def test_a_probe_says_the_same_twice_and_leaves_the_model_bit_for_bit(
    name: Any, scene: AuditContext, subject: AuditedModel
) -> None:
    network = subject.model.network
    for trial in PROBES[name].trials(scene):
        first = trial.run(replace(scene, drawn={}), subject)
        assert json.loads(json.dumps(first)) == first, "plain data, so that kept and new results are equal"
        assert trial.run(replace(scene, drawn={}), subject) == first
        assert model_sha256(subject.model) == subject.sha256
        assert all(p.requires_grad and p.grad is None for p in network.parameters())
        if trial.axis is not None:
            assert len(first["at"]) == len(first["hits"]) == len(first["n"])
            assert all(0 <= hits <= n for hits, n in zip(first["hits"], first["n"], strict=True))


class WatchedBudget:
    """A budget that notes which settings are read."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self.seen = budget, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.seen.add(name)
        return getattr(self._budget, name)


@pytest.mark.parametrize("name", PROBE_NAMES)
def test_a_cached_outcome_is_keyed_by_all_settings_that_its_trial_reads_and_by_no_others(
    name: Any, scene: AuditContext, subject: AuditedModel
) -> None:
    for trial in PROBES[name].trials(scene):
        budget: Any = WatchedBudget(scene.budget)
        trial.run(replace(scene, budget=budget), subject)
        assert budget.seen == {*trial.settings}, trial.name


def a_dit() -> ConditionalDiT:
    torch.manual_seed(0)
    return ConditionalDiT(DiTModule(8, 1, 2, 10, 2, 2, 8), dict(enumerate("0123456789")))


def a_unet_without_a_null_class() -> ConditionalDDPM:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, num_class_embeds=10, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip
    return ConditionalDDPM(unet, dict(enumerate("0123456789")))


@pytest.mark.parametrize("make", [a_dit, a_unet_without_a_null_class])
def test_every_probe_runs_on_every_kind_of_model(make: Callable[[], Any], scene: AuditContext) -> None:
    model = make()
    other = replace(scene, original=make(), mask=None)
    sha256 = model_sha256(model)
    for probe in PROBES.values():
        trials = probe.trials(other)
        for trial in trials:
            assert trial.run(other, AuditedModel("unlearned", model, sha256))
        names = {trial.name for trial in trials}
        assert ("null label" in names) == (model.null_class is not None and "forgotten label" in names)
    assert model_sha256(model) == sha256


def test_what_trains_inside_restored_leaves_no_trace(subject: AuditedModel) -> None:
    network = subject.model.network
    network.eval()

    def train_and_fail() -> None:
        with restored(network):
            network.train().requires_grad_(False)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter += 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train_and_fail()
    assert model_sha256(subject.model) == subject.sha256
    assert not network.training
    assert all(p.requires_grad for p in network.parameters())


class Watched:
    """In place of drawing: keeps the weights that would draw."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self, _scene: AuditContext, model: Any, labels: Any, **_: Any) -> tuple[int, int]:
        self.seen.append({name: value.clone() for name, value in model.network.state_dict().items()})
        return 0, 1


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    seen = Watched()
    monkeypatch.setattr(AuditContext, "count", lambda *inputs, **more: seen(*inputs, **more))
    return seen


TABLE = "unet.class_embedding.table.weight"


def test_the_embedding_attack_changes_the_forgotten_row_and_nothing_else(
    scene: AuditContext, subject: AuditedModel, watched: Watched
) -> None:
    attack(scene, subject, mixture=False)
    before, after = watched.seen[0], watched.seen[-1]
    assert all(torch.equal(before[name], after[name]) for name in before if name != TABLE)
    changed = (before[TABLE] != after[TABLE]).any(1)
    assert changed.tolist() == [label == THREE for label in range(10)]


def test_a_mixture_starts_in_the_middle_of_the_retained_rows_and_stays_between_them(
    scene: AuditContext, subject: AuditedModel, watched: Watched
) -> None:
    attack(scene, subject, mixture=True)
    kept = [label for label in range(10) if label != THREE]
    rows = watched.seen[0][TABLE][kept]
    added = rounding(9, float(rows.abs().max()))  # a mixture of nine rows, added up in float32
    rows = rows.double()
    assert (watched.seen[0][TABLE][THREE] - rows.mean(0)).abs().max() <= added
    mixed = watched.seen[-1][TABLE][THREE]
    assert not torch.equal(mixed, watched.seen[0][TABLE][THREE])
    system = torch.cat([rows.T, torch.ones(1, 9).double()])
    weights = torch.linalg.lstsq(system, torch.cat([mixed.double(), torch.ones(1).double()])).solution
    assert (weights @ rows - mixed).abs().max() <= added
    off = added * len(mixed) ** 0.5  # of the whole row, which solving magnifies
    assert (weights >= -off / torch.linalg.svdvals(system).min()).all()


def test_the_embedding_attack_descends_the_loss_of_the_class(
    scene: AuditContext, subject: AuditedModel, watched: Watched
) -> None:
    longer = replace(scene, budget=scene.budget.model_copy(update={"embedding_steps": (0, 40), "batch_size": 32}))
    attack(longer, subject, mixture=False)
    images = longer.some_of_the_class(10)
    batch = longer.batches(subject.model, images, "held apart", 1)(0)
    losses = []
    for state in (watched.seen[0], watched.seen[-1]):
        subject.model.network.load_state_dict(state)
        subject.model.network.eval()
        with torch.no_grad():
            loss = subject.model.loss(batch.x_0, batch.timesteps, batch.noise, batch.class_labels).mean()
        losses.append(float(loss))
    assert losses[1] < losses[0]


def test_relearning_on_retained_data_never_sees_the_class(
    scene: AuditContext, subject: AuditedModel, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Tensor] = []
    plain = subject.model.loss
    monkeypatch.setattr(subject.model, "loss", lambda *i, **k: trained.append(i[3]) or plain(*i, **k))
    relearn(scene, subject, "retained")
    assert len(trained) == 2
    assert THREE not in torch.cat(trained)
    trained.clear()
    relearn(scene, subject, 2)
    assert set(torch.cat(trained).tolist()) <= {THREE, subject.model.null_class}


def test_relearning_moves_class_tables_at_a_rate_of_their_own(
    scene: AuditContext, subject: AuditedModel, watched: Watched
) -> None:
    once = replace(scene, budget=scene.budget.model_copy(update={"relearn_steps": (0, 1)}))
    relearn(once, subject, 2)
    before, after = watched.seen
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    own = scene.budget.embedding_lr * table_scale(subject.model.class_tables)
    assert moved.pop(TABLE) == pytest.approx(own, rel=1e-3)  # the first step of an Adam is as long as its rate
    assert max(moved.values()) == pytest.approx(scene.budget.relearn_lr, rel=1e-2)


def test_every_model_is_attacked_with_the_same_images(scene: AuditContext) -> None:
    one, ten = scene.some_of_the_class(1), scene.some_of_the_class(10)
    assert torch.equal(one.images, ten.images[:1])
    assert len(scene.some_of_the_class(10**6)) == len(scene.forget_set)
    other = replace(scene, budget=scene.budget.model_copy(update={"seed": 1}))
    assert not torch.equal(other.some_of_the_class(10).images, ten.images)


class Oracle:
    """A model that knows the one image there is, or predicts the same noise whatever it sees."""

    learned_variance, null_class = False, 10
    num_train_timesteps = 1000

    def __init__(self, x_0: Tensor | None) -> None:
        self.x_0, self.network = x_0, torch.nn.Identity()
        self.model = ConditionalDDPM(
            UNetModule(8, 1, 10, 16, (1,), 1, (), False, 0.0, 4), dict(enumerate("0123456789"))
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def encode(self, images: Tensor) -> Tensor:
        return self.model.encode(images).double()

    def noise_pred(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, guidance_scale: float = 1.0) -> Tensor:
        if self.x_0 is None:
            return torch.full_like(x_t, 0.3)
        abar = self.model._alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return (x_t - abar.sqrt() * self.x_0) / (1 - abar).sqrt()

    def predict(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.noise_pred(x_t, timesteps, class_labels)


@pytest.mark.numerical
@pytest.mark.parametrize("t", [1, 200, 1000])
def test_from_any_noise_level_a_model_that_knows_the_image_comes_back_to_it(t: int) -> None:
    x_0 = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    model: Any = Oracle(x_0)
    scheduler = make_scheduler("ddim")
    scheduler.set_timesteps(25)
    timesteps = scheduler.timesteps[scheduler.timesteps < t]
    timesteps = timesteps if len(timesteps) else scheduler.timesteps[-1:]
    x_t = model.add_noise(x_0, torch.randn(1, 1, 8, 8).double(), timesteps[:1])
    back = denoise(model.predict, scheduler, x_t, [0], timesteps, 1.0, [])
    torch.testing.assert_close(back, x_0, rtol=0, atol=1e-10)


def test_noisy_start_counts_every_held_out_image_once(scene: AuditContext, subject: AuditedModel) -> None:
    many = replace(scene, budget=scene.budget.model_copy(update={"real_images": 1000}))
    assert recovered(many, subject, with_label=True)["n"] == [int((scene.held_out.class_labels == THREE).sum())]


def test_ddim_there_and_back_is_exact_where_the_noise_does_not_depend_on_the_image(scene: AuditContext) -> None:
    outcome = reconstruction(scene, AuditedModel("original", Oracle(None), ""))  # type: ignore[arg-type]
    assert outcome["groups"].keys() == {
        "forgotten, training", "forgotten, held out", "retained, training", "retained, held out"
    }  # fmt: skip
    assert all(group["error"] < 1e-20 for group in outcome["groups"].values())


def test_weights_off_the_mask_are_counted_exactly(scene: AuditContext, subject: AuditedModel) -> None:
    name = "unet.conv_in.weight"
    masked = replace(scene, mask={n: torch.zeros_like(part) for n, part in (scene.mask or {}).items()})
    assert distances(masked, subject)["off_mask"]["changed"] == 0
    with torch.no_grad():
        dict(subject.model.network.named_parameters())[name].flatten()[:5] += 1
    moved = distances(masked, subject)
    assert moved["off_mask"] == {"weights": moved["all"]["weights"], "changed": 5}
    assert [layer for layer, part in moved["layers"].items() if part["changed"]] == ["unet.conv_in"]
    original = dict(scene.original.network.named_parameters())
    before = original["unet.conv_in.weight"], original["unet.conv_in.bias"]
    length = sum(float(part.detach().double().square().sum()) for part in before) ** 0.5
    added = pytest.approx(5**0.5 / length, rel=rounding(1, 2))  # 1, in float32
    assert moved["layers"]["unet.conv_in"]["distance"] == added
    assert distances(scene, subject)["off_mask"]["weights"] == 0


def curve(*hits: int, n: int = 100) -> dict[str, Any]:
    return {"at": list(range(len(hits))), "hits": list(hits), "n": [n] * len(hits)}


def pooled(*of_models: list[dict[str, Any]]) -> dict[str, Any]:
    """Of models, each under several seeds."""
    return pool(of_models)


def test_the_headline_is_the_surest_excess_with_an_interval_for_all_at_once() -> None:
    attacks = {
        ("relearn", "10 images"): {"unlearned": pooled([curve(0, 90)]), "control": pooled([curve(0, 85)])},
        ("noisy_start", "label"): {"unlearned": pooled([curve(60)]), "control": pooled([curve(20)])},
        ("noisy_start", "few"): {"unlearned": pooled([curve(9, n=10)]), "control": pooled([curve(2, n=10)])},
    }
    found = excesses(attacks)
    assert [round(point["difference"], 12) for point in found] == [0.0, 0.05, 0.4, 0.7]
    first = headline(found)
    assert first is not None
    assert (first["probe"], first["attack"], first["at"], first["points"]) == ("noisy_start", "label", 0, 4)
    alone = excesses({("noisy_start", "label"): attacks["noisy_start", "label"]})[0]
    assert first["interval"][0] < alone["interval"][0] < 0.4 < alone["interval"][1] < first["interval"][1]
    assert first["decision"] == "left"
    assert headline([]) is None


def test_curves_of_models_and_seeds_are_summed_and_each_is_kept() -> None:
    found = pooled([curve(1, 2), curve(3, 4)], [curve(5, 6), curve(7, 8)])
    assert (found["hits"], found["n"], found["at"]) == ([16, 20], [400, 400], [0, 1])
    assert found["each"] == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


def test_images_of_independent_clusters_are_worth_their_number_and_equal_ones_one_a_cluster() -> None:
    source = torch.Generator().manual_seed(0)
    independent = []
    for _ in range(300):
        counts = torch.binomial(torch.full((4,), 100.0), torch.full((4,), 0.3), generator=source)
        independent.append((counts.int().tolist(), 100))
    assert correlation(independent) < 0.003
    assert correlation([([0, 100, 100, 0], 100)]) == 1.0
    assert correlation([([0, 0], 100), ([100, 100], 100)]) == 0.0  # all alike: nothing is known of a spread
    assert worth(400, 4, 0.0) == 400
    assert worth(400, 4, 1.0) == 4
    spread_out = []
    for _ in range(300):  # shares of 0.3 with a deviation of 0.1 between clusters
        shares = (0.3 + 0.1 * torch.randn(4, generator=source)).clamp(0, 1)
        spread_out.append((torch.binomial(torch.full((4,), 100.0), shares, generator=source).int().tolist(), 100))
    assert correlation(spread_out) == pytest.approx(0.1**2 / (0.3 * 0.7), rel=0.15)


def test_what_retrained_models_differ_by_is_no_excess() -> None:
    """Two controls at 20% and 45%: a model at 45% is none that stands out, though its images alone would say so."""
    apart = pooled([curve(20)], [curve(45)])
    alike = pooled([curve(32)], [curve(33)])
    gone = pooled([curve(60)])
    attack = ("relearn", "10 images")
    sure = excesses({attack: {"unlearned": gone, "control": alike}})[0]
    unsure = excesses({attack: {"unlearned": gone, "control": apart}})[0]
    assert sure["difference"] == unsure["difference"]
    assert sure["interval"][0] > 0 > unsure["interval"][0]


def test_the_decision_is_left_gone_or_that_it_cannot_tell() -> None:
    def decision(gone: dict[str, Any], control: dict[str, Any]) -> str:
        return decide(excesses({("relearn", "10 images"): {"unlearned": gone, "control": control}}))

    assert decision(pooled([curve(90, 95)]), pooled([curve(1, 20)], [curve(2, 22)])) == "left"
    assert decision(pooled([curve(1, 2)]), pooled([curve(1, 2)], [curve(0, 3)])) == "gone"
    assert decision(pooled([curve(1, 2, n=5)]), pooled([curve(1, 2, n=5)])) == "cannot tell"


def test_steps_to_half_are_the_first_that_reach_it() -> None:
    assert steps_to_half(curve(50, 99), {"value": 1.0}) == 0
    assert steps_to_half(curve(0, 49, 51, 20), {"value": 1.0}) == 2
    assert steps_to_half(curve(0, 0), {"value": 1.0}) is None


def test_every_model_offers_its_class_table_its_middle_and_fresh_weights() -> None:
    unet = UNetModule(8, 1, 10, 16, (1, 2), 1, (), False, 0.0, 4)
    names = dict(enumerate("0123456789"))
    models: list[Any] = [ConditionalDDPM(unet, names), ConditionalDDPM(fold(unet), names)]
    models.append(ConditionalDiT(DiTModule(8, 1, 1, 10, 2, 2, 8), names))
    for model in models:
        (table,) = model.class_tables
        assert any(table is p for p in model.network.parameters())
        assert len(table) in (10, 11)
        assert any(model.middle is module for module in model.network.modules())
        torch.manual_seed(derive_seed(0))
        fresh = model.fresh_network().state_dict()
        assert fresh.keys() == model.network.state_dict().keys()


def test_the_commands_choices_are_the_probes_and_budgets_there_are() -> None:
    assert list(PROBE_NAMES) == list(PROBES)
    assert [option.value for option in BudgetOption] == list(BUDGETS)


@pytest.fixture(scope="module")
def audited(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("audit") / "run"
    shutil.copytree(finished, run)
    return run


def test_an_audit_from_the_command_line(dualoptim: Command, audited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = dualoptim("audit", audited, *SMALL, "--probe", "leakage")
    assert alone.code == 0, alone.err
    assert "no control" in alone.err
    assert json.loads((audited / "audit.json").read_text())["headline"] is None
    assert "There is no control" in alone.out

    done = dualoptim("audit", audited, *SMALL, "--retrain", "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert content == json.loads((audited / "audit.json").read_text())
    assert list(content["probes"]) == list(USUAL)
    assert content["models"].keys() == content["plain"].keys() == {"original", "unlearned", "control"}
    features = content["probes"]["features"]["trials"]["linear probe"]["outcomes"]
    assert features.keys() == {"original", "unlearned", "control", "random"}
    attacks = [t for p in content["probes"].values() for t in p["trials"].values() if t["axis"]]
    assert len(content["excess"]) == sum(len(t["outcomes"]["unlearned"]["at"]) for t in attacks)
    assert content["headline"]["points"] == len(content["excess"])
    assert "plain" not in content["probes"]

    def nothing_to_do(*_: Any) -> None:
        raise AssertionError("was done before")

    before = (audited / "audit.json").read_bytes()
    monkeypatch.setattr(AuditContext, "count", nothing_to_do)
    assert dualoptim("audit", audited, *SMALL).code == 0  # and the control is found again
    assert (audited / "audit.json").read_bytes() == before
    one = dualoptim("audit", audited, *SMALL, "--probe", "relearn")
    assert one.code == 0
    assert list(json.loads((audited / "audit.json").read_text())["probes"]) == list(USUAL), "the others stay"


def test_the_report_shows_the_audit(dualoptim: Command, audited: Path) -> None:
    page = (audited / "report.html").read_text()
    assert "Audit: is it really gone?" in page
    content = RunFolder(audited).read_audit()
    assert content is not None
    assert all(probe["figure"].startswith("<svg") for probe in section(content)["probes"])
    assert "Simply asked, “three” draws" in sentence(content)
    assert "2 models retrained without the class" in sentence(content)
    told = dualoptim("report", audited, "--json")
    figures = {row["role"]: row["figures"] for row in json.loads(told.out)["rows"]}
    worst = content["headline"]
    (name,) = (name for name in figures["unlearned"] if name.startswith("excess[quick "))
    assert name not in figures["original"]
    assert figures["unlearned"][name]["value"] == worst["difference"]
    assert figures["unlearned"][name]["ci95"] == worst["interval"]
    assert f"{100 * worst['difference']:+.1f} pp" in page
    damaged = json.loads((audited / "audit.json").read_text())
    damaged["probes"]["relearn"]["trials"] = 3
    (audited / "audit.json").write_text(json.dumps(damaged))
    refused = dualoptim("report", audited)
    assert refused.code == 1
    assert "audit.json is damaged" in refused.err
    (audited / "audit.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        RunFolder(audited).read_audit()
    (audited / "audit.json").unlink()
    assert dualoptim("report", audited).code == 0


@pytest.mark.slow
def test_an_interrupted_audit_goes_on_where_it_was(
    dualoptim: Command, audited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = [*SMALL, "audit.seed=5", "--probe", "relearn"]
    counted: list[int] = []
    plain = AuditContext.count

    def stop_at(limit: int) -> None:
        def count(*inputs: Any, **more: Any) -> Any:
            counted.append(1)
            if len(counted) == limit:
                raise KeyboardInterrupt
            return plain(*inputs, **more)

        counted.clear()
        monkeypatch.setattr(AuditContext, "count", count)

    stop_at(10**6)
    assert dualoptim("audit", audited, *other).code == 0
    whole, everything = (audited / "audit.json").read_bytes(), len(counted)
    for kept in (Path(cache_entry("audits", "x")).parent).glob("*.json"):
        kept.unlink()
    stop_at(8)
    assert dualoptim("audit", audited, *other).code == 130
    stop_at(10**6)
    assert dualoptim("audit", audited, *other).code == 0
    assert (audited / "audit.json").read_bytes() == whole
    assert len(counted) < everything


def test_a_control_that_is_none_is_refused(dualoptim: Command, finished: Path, audited: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in finished.iterdir())
    refused = dualoptim("audit", finished, "--control", audited)
    assert refused.code == 1
    assert "made by the method 'sfron', expected retrain" in refused.err
    refused = dualoptim("audit", finished, "--control", tmp_path / "nothing")
    assert refused.code == 1
    assert "There is no pipeline folder" in refused.err
    refused = dualoptim("audit", finished, "--control", tmp_path / "nothing", "--retrain")
    assert refused.code == 1
    assert "give one of them" in refused.err
    twice = dualoptim("audit", finished, "--control", finished / "model", "--control", finished / "model")
    assert twice.code == 1
    assert "are one model" in twice.err
    model = load_model(finished / "model")
    model.forgotten = []
    model.save(tmp_path / "seen")
    refused = dualoptim("audit", finished, "--control", tmp_path / "seen")
    assert refused.code == 1
    assert "was not retrained without 'three'" in refused.err
    assert sorted(path.name for path in finished.iterdir()) == before


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("audit.imags=3", "there is no key audit.imags; did you mean images"),
        ("audit.images=0", "audit.images is 0, expected greater than or equal to 1"),
        ("audit.relearn_steps=[5,1]", "expected numbers of steps that begin with 0 and grow"),
        ("audit.relearn=[0]", "relearn of numbers of images from 1 on"),
        ("audit.timesteps=[0]", "expected timesteps from 1 to 1000"),
        ("audit.probes=[magic]", "There is no probe 'magic': known are"),
        ("method.num_steps=3", "would change how the run was made; override audit and sampling alone"),
        ("images=3", "would change how the run was made"),
    ],
)
def test_bad_budgets_are_one_sentence(dualoptim: Command, finished: Path, override: str, sentence: str) -> None:
    refused = dualoptim("audit", finished, override)
    assert refused.code == 1
    assert sentence in refused.err
    assert len(refused.err.strip().splitlines()) == 1


def test_no_run_no_audit(dualoptim: Command, tmp_path: Path) -> None:
    refused = dualoptim("audit", tmp_path)
    assert refused.code == 1
    assert "There is no run folder" in refused.err
