"""What an audit costs: told beforehand as it then is, and no image is drawn twice; images of anything else."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from dualoptim_diffusion.audit import guide
from dualoptim_diffusion.audit.context import AuditContext, AuditedModel
from dualoptim_diffusion.audit.probes import PROBES
from dualoptim_diffusion.audit.relearn import AUXILIARY, relearn
from dualoptim_diffusion.core.budget import PROBE_NAMES
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.models.costs import bytes_saved
from tests.helpers.commands import Outcome

Command = Callable[..., Outcome]
TINY = ("audit.images=2", "audit.relearn=[1]", "audit.relearn_steps=[0,1]", "audit.batch_size=4")


@pytest.fixture
def passed(subject: AuditedModel) -> list[tuple[int, bool]]:
    """How many images went through the network at a time, and whether it was to go back."""
    found: list[tuple[int, bool]] = []
    network: Any = subject.model.network
    network.register_forward_pre_hook(lambda _, inputs: found.append((len(inputs[0]), torch.is_grad_enabled())))
    return found


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("name", PROBE_NAMES)
def test_a_trial_takes_the_passes_that_it_tells(
    name: str, scale: float, scene: AuditContext, subject: AuditedModel, passed: list[tuple[int, bool]]
) -> None:
    settings = scene.settings.model_copy(update={"guidance_scale": scale, "batch_size": 3})  # of 4 images: 2 are padded
    fresh = replace(scene, settings=settings, auxiliary=scene.retain_set, drawn={}, controls=())
    fresh.count(subject.model, fresh.forget_classes)  # the model as it is, which every audit asks first
    for trial in PROBES[name].trials(fresh):
        passed.clear()
        trial.run(fresh, subject)
        forward, backward = (sum(n for n, back in passed if back is kind) for kind in (False, True))
        assert (forward, backward) == trial.cost[:2], trial.name


def test_no_image_is_drawn_twice_until_the_weights_change(
    scene: AuditContext, subject: AuditedModel, passed: list[tuple[int, bool]]
) -> None:
    fresh = replace(scene, drawn={})
    once, seen = fresh.count(subject.model, [3, 4]), len(passed)
    assert fresh.count(subject.model, [4]) <= once
    assert replace(fresh, budget=fresh.budget.model_copy(update={"seed": 1})).count(subject.model, [4, 3]) == once
    assert len(passed) == seen
    fresh.count(subject.model, [3], guidance_scale=2.0)
    assert len(passed) > seen
    seen = len(passed)
    with torch.no_grad():
        next(subject.model.network.parameters()).add_(1e-3)
    fresh.count(subject.model, [3])
    assert len(passed) > seen


def test_relearning_on_other_images_tells_the_network_no_label(
    scene: AuditContext, subject: AuditedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Tensor] = []
    plain = subject.model.loss
    monkeypatch.setattr(subject.model, "loss", lambda *i, **k: trained.append(i[3]) or plain(*i, **k))
    relearn(replace(scene, auxiliary=scene.retain_set), subject, AUXILIARY)
    assert set(torch.cat(trained).tolist()) == {subject.model.null_class}
    trained.clear()
    labels = torch.arange(len(scene.retain_set)) % 10
    anything = ImageSet(scene.retain_set.images, labels, scene.retain_set.id2label)
    monkeypatch.setattr(subject.model, "null_class", None)
    relearn(replace(scene, auxiliary=anything), subject, AUXILIARY)
    assert len(set(torch.cat(trained).tolist())) > 2


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "run"
    shutil.copytree(finished, copied)
    return copied


def test_images_of_anything_else_are_an_attack_of_their_own(dualoptim: Command, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cats" / "train" / "cat"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (20, 12), (40 * i, 9, 200)).save(folder / f"{i}.png")
    attack = dualoptim("audit", run, *TINY, "--probe", "relearn", f"audit.auxiliary={tmp_path / 'cats'}", "--json")
    assert attack.code == 0, attack.err
    trials = json.loads(attack.out)["probes"]["relearn"]["trials"]
    assert list(trials) == ["1 image of the class", "auxiliary data"]
    assert trials["auxiliary data"]["outcomes"]["unlearned"]["at"] == [0, 1]
    refused = dualoptim("audit", run, *TINY, "--probe", "relearn", f"audit.auxiliary={tmp_path / 'dogs'}")
    assert refused.code == 1
    assert "audit.auxiliary is of no use: There is no folder" in refused.err
    assert len(refused.err.strip().splitlines()) == 1


def test_a_dry_run_tells_what_is_left_to_do_and_changes_nothing(dualoptim: Command, run: Path) -> None:
    words = ("audit", run, *TINY, "audit.seed=77", "--probe", "relearn")
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    planned = dualoptim(*words, "--retrain", "--controls", "7", "--dry-run", "--json")
    assert planned.code == 0, planned.err
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before
    content = json.loads(planned.out)
    assert content["controls_to_be_trained"]["models"] + len(content["controls"]) == 7
    assert content["controls_to_be_trained"]["estimated_seconds"] > 0
    assert content["probes"]["plain"]["forward_passes"] > 0
    part = content["probes"]["relearn"]
    assert part["trials"] == 1 + 2 * (1 + 7)  # one seed for the original, two for each other model
    assert part["kept"] == 0
    assert part["training_passes"] == part["trials"] * 4
    assert content["estimated_seconds"] > 0
    done = dualoptim(*words)
    assert done.code == 0, done.err
    again = json.loads(dualoptim(*words, "--dry-run", "--json").out)["probes"]
    assert again["relearn"]["kept"] == again["relearn"]["trials"]
    assert again["relearn"]["estimated_seconds"] == 0


def test_the_classifier_that_guides_is_told_beforehand_until_it_is_kept(
    dualoptim: Command, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DUALOPTIM_CACHE", str(tmp_path / "cache"))
    words = ("audit", run, *TINY, "audit.guide_steps=2", "--probe", "classifier_guided", "--dry-run", "--json")
    seconds, largest, attack = [], [], guide.measured
    monkeypatch.setattr(guide, "measured", lambda *call: (attack(*call), 1 / call[2])[1])  # each batch takes a second
    for steps in (2, 202):
        part = json.loads(dualoptim(*words, f"audit.guide_steps={steps}").out)["probes"]["classifier_guided"]
        seconds.append(part["estimated_seconds"])
        largest.append(part["bytes_of_weights_and_activations"])
    assert seconds[1] - seconds[0] == pytest.approx(2 * 200, rel=0.1)  # steps more, of each of two classifiers
    plain = json.loads(dualoptim("audit", run, *TINY, "--probe", "leakage", "--dry-run", "--json").out)
    assert largest[0] == largest[1] > plain["bytes_of_weights_and_activations"]
    assert dualoptim(*words[:-2]).code == 0
    kept = json.loads(dualoptim(*words).out)["probes"]["classifier_guided"]
    assert kept["estimated_seconds"] == 0
    assert kept["bytes_of_weights_and_activations"] < largest[0]


def test_the_memory_of_a_pass_is_counted_from_the_tensors_that_it_saves() -> None:
    """A linear layer without a bias saves its input; a sigmoid its output."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 5, bias=False), torch.nn.Sigmoid())
    assert bytes_saved(network, lambda count: network(torch.ones(count, 3)), 7) == 7 * (3 + 5) * 4
