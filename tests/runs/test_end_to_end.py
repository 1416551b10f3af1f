"""The command line on real digits: every promise that a run makes."""

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from dualoptim_diffusion.core.errors import EXIT_STOPPED
from dualoptim_diffusion.files.cache import cache_folder
from dualoptim_diffusion.files.checkpoint import load_checkpoint
from dualoptim_diffusion.files.weight_files import weights_sha256
from dualoptim_diffusion.judge.classifier import Classifier
from tests.helpers.commands import Outcome, launch
from tests.helpers.numerics import rounding, steps_of

Run = Callable[..., Outcome]
FIGURES = rounding(10_000)  # of a judge with fewer terms in all its inner products, in float32


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def equal(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def shards(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "samples").glob("*.safetensors"))}


def test_a_run_folder_holds_what_is_promised(finished: Path) -> None:
    for name in ("recipe.yaml", "provenance.json", "metrics.jsonl", "results.json", "report.html", "grid.png"):
        assert (finished / name).stat().st_size > 0
    for name in ("model/model_index.json", "samples/manifest.json", "mask.safetensors", "checkpoints/latest"):
        assert (finished / name).is_file()
    origin = json.loads((finished / "provenance.json").read_text())
    assert len(origin["base_model_sha256"]) == len(origin["classifier_sha256"]) == len(origin["model_sha256"]) == 64
    assert origin["base_model_sha256"] != origin["model_sha256"]
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(6))
    assert {"forget_loss", "retain_loss", "forget_grad_norm", "retain_grad_norm", "forget_weight"} <= records[0].keys()
    assert not list(finished.rglob("*.part"))


def test_results_have_the_promised_shape(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    for model in ("original", "unlearned"):
        r = results[model]
        assert r["FA"].keys() >= {"value", "hits", "n", "ci95", "per_class"}
        assert r["FA"]["n"] == 4
        assert r["RA"]["n"] == 36
        assert 0 <= r["FA"]["ci95"][0] <= r["FA"]["value"] <= r["FA"]["ci95"][1] <= 1
        assert 0 <= r["RA"]["value"] <= 1
        assert r["degenerate"]["forgotten"]["n"] == 4
        assert r["frechet"]["name"] == "FD[classifier]"
        assert (r["kid"]["n_generated"], r["kid"]["n_reference"]) == (36, 322)  # held-out images of the other classes
        assert (r["kid_training"]["n_generated"], r["kid_training"]["n_reference"]) == (36, 1292)
    assert len(results["protocol_hash"]) == 64
    assert results["protocol"]["guidance"] == {"guidance_scale": 1.0, "w": 0.0}


def test_another_judge_adds_its_figures_beside_the_runs_own(dualoptim: Run, finished: Path, tmp_path: Path) -> None:
    run, judge = tmp_path / "run", tmp_path / "judge"
    shutil.copytree(finished, run)
    own = (run / "results.json").read_bytes()
    assert dualoptim("train-classifier", finished / "classifier.yaml", "run.seed=7", "--out", judge).code == 0
    outcome = dualoptim("evaluate", run, f"evaluation.classifier={judge}", "--json")
    assert outcome.code == 0, outcome.err
    (beside,) = (run / "evaluations").iterdir()
    assert (run / "results.json").read_bytes() == own
    found = json.loads(outcome.out)
    assert json.loads(beside.read_text()) == found
    assert beside.stem == found["protocol_hash"][:12] != json.loads(own)["protocol_hash"][:12]
    rows = json.loads(dualoptim("report", run, "--json").out)["rows"]
    assert [row["protocol_hash"] == found["protocol_hash"] for row in rows] == [False, False, True, True]
    again = dualoptim("evaluate", run, "--json")  # as the recipe says
    assert json.loads(again.out)["original"] == json.loads(own)["original"]
    assert len(list((run / "evaluations").iterdir())) == 1


def test_the_page_stands_alone_and_the_grid_marks_the_forgotten_row_in_red(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "<svg" in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    grid = Image.open(finished / "grid.png").convert("RGB")
    red = [y for y in range(grid.height) if grid.getpixel((grid.width // 4, y)) == (200, 30, 30)]
    assert red
    assert grid.height * 3 / 10 < min(red) <= max(red) < grid.height * 5 / 10  # row "three" of ten


def test_running_twice_gives_bit_identical_weights_and_images(
    dualoptim: Run, tiny: str, finished: Path, tmp_path: Path
):
    assert dualoptim("forget", tiny, "--class", "three", "--out", tmp_path / "again").code == 0
    assert equal(finished, tmp_path / "again")
    assert shards(finished) == shards(tmp_path / "again")
    results = [json.loads((run / "results.json").read_text()) for run in (finished, tmp_path / "again")]
    assert results[0]["unlearned"] == results[1]["unlearned"]


@pytest.mark.parametrize(
    "optimizers", [[], ["method.forget_lr=1e-4", "optimizers.mode=shared", "method.ema_decay=0.5"]]
)
def test_a_run_stopped_half_way_and_resumed_equals_an_unbroken_one_bit_for_bit(
    dualoptim: Run, tiny: str, finished: Path, tmp_path: Path, optimizers: list[str]
) -> None:
    command = ["forget", tiny, *optimizers, "--class", "three", "--out"]
    whole = tmp_path / "whole" if optimizers else finished
    assert whole == finished or dualoptim(*command, whole).code == 0
    stopped = dualoptim(*command, tmp_path / "halves", "--stop-after", 3)
    assert stopped.code == EXIT_STOPPED
    assert "--resume" in stopped.err
    assert not (tmp_path / "halves" / "results.json").exists()
    assert dualoptim(*command, tmp_path / "halves", "--resume").code == 0
    assert equal(whole, tmp_path / "halves")
    assert shards(whole) == shards(tmp_path / "halves")
    assert (whole / "metrics.jsonl").read_bytes() == (tmp_path / "halves" / "metrics.jsonl").read_bytes()


def test_a_signal_saves_and_exits_like_stop_after(tiny: str, tmp_path: Path, finished: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "dualoptim_diffusion",
        "forget",
        tiny,
        "method.num_steps=100000",
        "--class",
        "three",
    ]
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True)
    while not (out / "metrics.jsonl").exists() or len((out / "metrics.jsonl").read_text().splitlines()) < 3:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        sleep(0.1)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_STOPPED, err
    steps = int((out / "checkpoints" / "latest").read_text().removeprefix("step_"))
    assert len((out / "metrics.jsonl").read_text().splitlines()) == steps


def test_forget_lr_zero_is_bit_identical_to_finetuning(
    dualoptim: Run, tiny: str, tmp_path: Path, finished: Path
) -> None:
    for name, override in (("zero", "method.forget_lr=0"), ("finetune", "method.name=finetune")):
        assert dualoptim("forget", tiny, "--class", "three", "--out", tmp_path / name, override).code == 0
    assert equal(tmp_path / "zero", tmp_path / "finetune")
    assert not equal(tmp_path / "zero", finished)


def test_off_mask_weights_never_move_where_only_masked_steps_go(dualoptim: Run, tiny: str, tmp_path: Path, cache: Path):
    out = tmp_path / "run"
    assert dualoptim("forget", tiny, "method.retain_steps=0", "--class", "three", "--out", out).code == 0
    mask, after = load_file(out / "mask.safetensors"), weights(out)
    base = json.loads((out / "provenance.json").read_text())["base_model_sha256"]
    every = (load_file(path) for path in (cache / "models").glob("*/model/unet/*.safetensors"))
    before = next(weights for weights in every if weights_sha256(weights) == base)
    assert all(torch.equal(before[name][~m], after[name][~m]) for name, m in mask.items())
    assert any(not torch.equal(before[name][m], after[name][m]) for name, m in mask.items())


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.name=salun", "method.mask={kind: top_fraction, num_batches: 2}"],
        ["method.name=salun", "method.update=joint", "method.mask={kind: top_fraction, num_batches: 2}"],
        ["method.name=gradient_ascent", "method.forget_ceiling=2"],
        ["method.name=retrain"],
        ["method.name=sa", "method.replay_per_class=4", "method.fisher_timesteps=3", "method.retain_weight=1"],
        ["method.name=null_matching", "optimizers.mode=dual_plus"],
        ["optimizers.mode=dual_m", "optimizers.retain_momentum=0.5"],
        ["optimizers.mode=dual_v"],
        ["optimizers.forget=muon", "optimizers.retain=lion"],
        ["method.mask.estimator=published", "method.forget_schedule=cosine", "method.forget_steps=2"],
        ["run.precision=bf16", "sampling.scheduler=ddpm", "sampling.guidance_scale=2"],
        ["sampling.scheduler=dpmsolver++", "sampling.seeds=0-2", "run.gradient_checkpointing=true"],
        [
            "model.family=dit",
            "model.pretrain=tiny_dit_pretrain.yaml",
            "sampling.scheduler=ddpm",
            "sampling.guidance_scale=2",
        ],
        [
            "model.family=dit",
            "model.pretrain=tiny_dit_pretrain.yaml",
            "method.name=salun",
            "method.mask=null",
            "run.precision=bf16",
        ],
        ["model.family=dit", "model.pretrain=tiny_dit_pretrain.yaml", "method.name=retrain"],
    ],
    ids=lambda o: " ".join(o),
)
@pytest.mark.slow
def test_every_method_and_setting_runs_through(dualoptim: Run, tiny: str, tmp_path: Path, overrides: list[str]) -> None:
    outcome = dualoptim(
        "forget", tiny, *overrides, "--class", "3", "--class", "eight", "--out", tmp_path / "run", "--json"
    )
    assert outcome.code == 0, outcome.err
    results = json.loads(outcome.out)
    assert results["forgotten"] == ["three", "eight"]
    assert set(results["unlearned"]["FA"]["per_class"]) == {"three", "eight"}


def test_the_saved_pipeline_draws_in_a_new_process_by_either_loader_what_sample_drew(
    dualoptim: Run, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "drawn"
    command = ["sample", finished, "--class", "three", "--seeds", "0-3", "--out", out, "--json"]
    assert dualoptim(*command, "--guidance-scale", "2").code == 0
    code = (
        "import sys, torch\n"
        "from safetensors.torch import load_file\n"
        "from diffusers import DiffusionPipeline\n"
        "folder, expected = sys.argv[1], load_file(sys.argv[2])['images']\n"
        "stock = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)\n"
        "from dualoptim_diffusion import ConditionalDDPMPipeline\n"
        "settings = {'num_inference_steps': 3, 'guidance_scale': 2.0, 'output_type': 'uint8'}\n"
        "for pipeline in (stock, ConditionalDDPMPipeline.from_pretrained(folder)):\n"
        "    drawn = pipeline(['three'] * 4, seeds=range(4), **settings)\n"
        "    assert torch.equal(drawn.images, expected)"
    )
    (shard,) = out.glob("*.safetensors")
    done = subprocess.run([sys.executable, "-c", code, finished / "model", shard], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((out / "png" / "three").glob("*.png"))) == 4
    evaluated = load_file(finished / "samples" / "class0003-seed000000-000003.safetensors")["images"]
    assert not torch.equal(evaluated, load_file(shard)["images"])  # guidance was used


def test_interrupted_sampling_goes_on_and_other_samples_are_refused(
    dualoptim: Run, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "drawn"
    command = ["sample", finished, "--seeds", "0-5", "--batch-size", "4", "--out", out]
    assert dualoptim(*command).code == 0
    drawn = {path.name: path.read_bytes() for path in out.glob("*.safetensors")}
    assert len(drawn) == 20
    (out / sorted(drawn)[3]).unlink()
    assert dualoptim(*command).code == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.safetensors")} == drawn
    refused = dualoptim("sample", finished, "--seeds", "0-5", "--batch-size", "2", "--out", out)
    assert refused.code == 1
    assert "choose another folder" in refused.err


def test_a_mask_is_made_once_and_decides_what_moves(dualoptim: Run, tiny: str, tmp_path: Path, finished: Path) -> None:
    masks = [tmp_path / "own.safetensors", tmp_path / "narrow.safetensors"]
    for mask, threshold in zip(masks, (1.5, 5.0), strict=True):
        made = dualoptim(
            "saliency", tiny, f"method.mask.threshold={threshold}", "--class", "three", "--out", mask, "--json"
        )
        assert 0 < json.loads(made.out)["density"] < 1
        out = tmp_path / mask.stem
        assert dualoptim("forget", tiny, "--class", "three", "--mask", mask, "--out", out).code == 0
        assert (out / "mask.safetensors").read_bytes() == mask.read_bytes()
    assert equal(finished, tmp_path / "own")
    assert not equal(finished, tmp_path / "narrow")


def test_a_damaged_shard_is_drawn_again(dualoptim: Run, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    whole, results = shards(run), json.loads((run / "results.json").read_text())
    names = sorted(whole)
    (run / "samples" / names[0]).write_bytes(whole[names[0]][:50])
    (run / "samples" / names[3]).write_bytes(whole[names[3]][:-1] + bytes([whole[names[3]][-1] ^ 255]))
    assert dualoptim("evaluate", run).code == 0
    assert shards(run) == whole
    assert json.loads((run / "results.json").read_text())["unlearned"] == results["unlearned"]


def test_evaluate_grid_report_and_classes_work_on_a_finished_run(
    dualoptim: Run, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "moved"
    shutil.copytree(finished, run)
    before = json.loads((run / "results.json").read_text())
    outcome = dualoptim("evaluate", run, "--json")
    assert {k: v for k, v in json.loads(outcome.out).items() if k != "seconds"} == {
        k: v for k, v in before.items() if k != "seconds"
    }
    assert dualoptim("grid", run, "--class", "three", "--columns", 2, "--out", tmp_path / "g.png").code == 0
    assert Image.open(tmp_path / "g.png").height < Image.open(run / "grid.png").height
    printed = dualoptim("report", run).out
    assert "unlearned" in printed
    assert "95%" in printed
    assert "3  three" in dualoptim("classes", run).out
    assert dualoptim("classes", "digits_sfron_dual").out.splitlines()[9] == "9  nine"


def test_samples_of_other_weights_are_not_evaluated(dualoptim: Run, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    manifest = json.loads((run / "samples" / "manifest.json").read_text())
    (run / "samples" / "manifest.json").write_text(json.dumps(manifest | {"model_sha256": "0" * 64}))
    outcome = dualoptim("evaluate", run)
    assert outcome.code == 1
    assert "other weights" in outcome.err


def test_an_earlier_run_can_be_the_base_of_the_next_and_what_it_forgot_stays_out(
    dualoptim: Run, tiny: str, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "second"
    outcome = dualoptim("forget", tiny, f"model.path={finished}", "--class", "eight", "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    first, second = (json.loads((run / "provenance.json").read_text()) for run in (finished, out))
    assert second["base_model_sha256"] == first["model_sha256"]
    results = json.loads(outcome.out)
    assert (results["forgotten"], results["forgotten_before"]) == (["eight"], ["three"])
    assert results["unlearned"]["RA"]["n"] == 4 * 8  # neither three nor eight
    assert "three" not in results["unlearned"]["drawn"]
    assert "retain set: 1153 images" in outcome.err  # 1438 of ten classes without 146 threes and 139 eights
    assert json.loads((out / "model" / "model_index.json").read_text())["forgotten"] == ["eight", "three"]
    assert "Forgotten in earlier runs" in (out / "report.html").read_text()
    again = dualoptim("forget", tiny, f"model.path={out}", "--class", "three", "--out", tmp_path / "third")
    assert again.code == 1
    assert "was made to forget 'three' already" in again.err


def test_stopped_pretraining_goes_on_bit_identically_and_is_kept_by_its_hash(
    dualoptim: Run, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["pretrain", recipes / "tiny_pretrain.yaml", "--json"]
    monkeypatch.setattr("dualoptim_diffusion.core.terminal.EVERY", 1e-9)
    monkeypatch.setenv("DUALOPTIM_CACHE", str(tmp_path / "halves"))
    assert dualoptim(*command, "--stop-after", 5).code == EXIT_STOPPED
    resumed = dualoptim(*command, "--out", tmp_path / "model")
    assert " 6/12" in resumed.err
    assert " 5/12" not in resumed.err
    again = dualoptim(*command)
    assert "pretraining" not in again.err
    monkeypatch.setenv("DUALOPTIM_CACHE", str(tmp_path / "whole"))
    whole = dualoptim(*command)
    assert len({json.loads(outcome.out)["sha256"] for outcome in (resumed, again, whole)}) == 1
    trained = dualoptim("train-classifier", recipes / "tiny_classifier.yaml", "--out", tmp_path / "judge", "--json")
    assert set(json.loads(trained.out)["n_held_out"].values()) <= {34, 35, 36, 37}


def test_dry_run_counts_and_writes_nothing(dualoptim: Run, tiny: str, tmp_path: Path) -> None:
    outcome = dualoptim("forget", tiny, "--class", "three", "--out", tmp_path / "run", "--dry-run", "--json")
    plan = json.loads(outcome.out)
    assert (plan["forget_set"], plan["retain_set"]) == (146, 1292)
    assert plan["updates"] == {"forget": 6, "retain": 6}
    assert plan["images_drawn_per_model"] == 44  # ten labels and the null label
    memory = plan["bytes_without_activations"]
    assert memory["forget optimizer (adam)"] == memory["retain optimizer (adam)"] == 2 * memory["weights"]
    assert memory["weights"] == 4 * plan["parameters"]
    assert not (tmp_path / "run").exists()


SGD = ("optimizers.forget=sgd", "optimizers.retain=sgd")  # Adam would turn rounding into steps


@pytest.fixture
def no_dropout(recipes: Path) -> str:
    """The override that makes the tiny recipe's base model one without dropout."""
    pretraining = yaml.safe_load((recipes / "tiny_pretrain.yaml").read_text())
    pretraining["model"]["dropout"] = 0.0
    (recipes / "no_dropout.yaml").write_text(yaml.safe_dump(pretraining))
    return "model.pretrain=no_dropout.yaml"


@pytest.mark.slow
def test_two_processes_forget_and_saliency_agree_with_one(
    dualoptim: Run, tiny: str, no_dropout: str, tmp_path: Path
) -> None:
    """Without dropout, which each process draws for itself."""
    options = ["forget", tiny, no_dropout, *SGD, "--class", "three"]
    assert dualoptim(*options, "--out", tmp_path / "one").code == 0
    shutil.rmtree(cache_folder() / "masks")  # so that two processes make their own
    results = launch(*options, "--out", tmp_path / "two", "--json")
    assert results["forgotten"] == ["three"]  # printed once
    check_equal_but_for_rounding(tmp_path / "one", tmp_path / "two", [3e-4, 1e-4] * 6)
    assert shards(tmp_path / "two").keys() == shards(tmp_path / "one").keys()


def test_checkpoints_of_another_recipe_are_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match="another recipe"):
        load_checkpoint(finished / "checkpoints", {"recipe": "other"})


def test_the_recipe_name_works_from_any_folder(dualoptim: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dualoptim("forget", "digits_sfron_dual", "--class", "three", "--dry-run").code == 0


@pytest.mark.slow
def test_two_processes_evaluate_to_the_same_figures_as_one(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    one, two = json.loads((finished / "results.json").read_text()), launch("evaluate", run, "--json")
    a, b = flat(one), flat(two)
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert b[key] == (pytest.approx(value, rel=FIGURES, abs=1e-7) if isinstance(value, float) else value), key


def furthest(ours: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """Largest difference of two weights of one name."""
    return max((ours[name] - others[name]).abs().max().item() for name in ours)


def moved_by_rounding(weights: dict[str, torch.Tensor], rates: list[float]) -> float:
    """How far SGD steps with gradients of norm 1 at most may move weights apart: each weight is rounded once a step,
    gradients on the way through the network and back.
    """
    largest = max(float(w.abs().max()) for w in weights.values())
    return rounding(len(rates), largest) + sum(rates) * rounding(2 * steps_of(weights.values()))


def check_equal_but_for_rounding(one: Path, other: Path, rates: list[float]) -> None:
    """Checks that two runs of SGD end with the same masks but next to the threshold, and where these agree with the
    same weights.
    """
    masks, moved = [load_file(run / "mask.safetensors") for run in (one, other)], (weights(one), weights(other))
    agreed = {name: masks[0][name] == masks[1][name] for name in masks[0]}
    assert sum(int(part.sum()) for part in agreed.values()) > 0.999 * sum(part.numel() for part in agreed.values())
    assert agreed.keys() == moved[0].keys()
    kept = [{name: part[agreed[name]] for name, part in weights.items()} for weights in moved]
    assert furthest(*kept) <= moved_by_rounding(moved[0], rates)


def flat(results: Any, path: str = "") -> dict[str, Any]:
    """Every figure by its path, without wall times."""
    if isinstance(results, list):
        results = dict(enumerate(results))
    if not isinstance(results, dict):
        return {path: results}
    parts = [flat(value, f"{path}/{key}") for key, value in results.items() if key != "seconds"]
    return {key: value for part in parts for key, value in part.items()}


def test_a_run_can_be_evaluated_under_another_protocol_beside_its_own_samples(
    dualoptim: Run, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = shards(run)
    command = ["evaluate", run, "sampling.num_inference_steps=2", "sampling.seeds=0-1", "--json"]
    results = json.loads(dualoptim(*command).out)
    assert results["unlearned"]["FA"]["n"] == 2
    assert results["protocol_hash"] != json.loads((finished / "results.json").read_text())["protocol_hash"]
    assert shards(run) == before
    assert len(list(run.glob("samples-*/*.safetensors"))) == 11
    refused = dualoptim("evaluate", run, "method.forget_lr=1")
    assert refused.code == 1
    assert "sampling and evaluation alone" in refused.err


def test_fa_of_a_judge_that_saw_no_real_image_is_unverified_until_it_does(
    dualoptim: Run, finished: Path, tmp_path: Path, cache: Path
) -> None:
    run, judge = tmp_path / "run", tmp_path / "judge"
    shutil.copytree(finished, run)
    judged_by = json.loads((run / "provenance.json").read_text())["classifier_sha256"]
    folders = (path.parent for path in (cache / "classifiers").glob("*/classifier.json"))
    (folder,) = (path for path in folders if Classifier.load(path).sha256 == judged_by)
    shutil.copytree(folder, judge)
    info = json.loads((judge / "classifier.json").read_text())
    (judge / "classifier.json").write_text(json.dumps(info | {"accuracy": {}, "n_held_out": {}}))
    words = ("evaluate", run, f"evaluation.classifier={judge}")
    outcome = dualoptim(*words)
    assert "unverified" in outcome.out
    assert json.loads((run / "results.json").read_text())["classifier"]["verified"] is False
    real = tmp_path / "real"
    assert dualoptim("sample", finished, "--class", "three", "--seeds", "0-2", "--out", tmp_path / "drawn").code == 0
    shutil.copytree(tmp_path / "drawn" / "png", real)
    outcome = dualoptim(*words, "--real-images", real, "--json")
    assert json.loads(outcome.out)["classifier"]["verified"] is True
    refused = dualoptim(*words, "--real-images", real, "evaluation.min_accuracy=1")
    assert "evaluation.min_accuracy" in refused.err or json.loads(outcome.out)["classifier"]["accuracy"]["three"] == 1


def test_channels_last_and_compiled_pretraining_give_the_same_model_up_to_rounding(
    dualoptim: Run, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # traced, not generated
    folders = []
    # Adam would turn rounding into steps, and dropout is drawn in the order of memory
    shorter = ["training.num_steps=3", "training.optimizer=sgd", "model.dropout=0"]
    for name, words in (("plain", []), ("fast", ["run.channels_last=true", "run.compile=true"])):
        outcome = dualoptim("pretrain", recipes / "tiny_pretrain.yaml", *shorter, *words, "--out", tmp_path / name)
        assert outcome.code == 0, outcome.err
        folders.append(load_file(next((tmp_path / name / "unet").glob("*.safetensors"))))
    plain, fast = folders
    assert plain.keys() == fast.keys()
    assert furthest(plain, fast) <= moved_by_rounding(plain, [1e-3] * 3)


def test_the_base_model_is_made_with_the_precision_of_its_own_recipe(
    dualoptim: Run, tiny: str, tmp_path: Path, finished: Path
) -> None:
    command = ["forget", tiny, "run.precision=bf16", "--class", "three", "--out", tmp_path / "run"]
    assert dualoptim(*command).code == 0
    origins = [json.loads((run / "provenance.json").read_text()) for run in (finished, tmp_path / "run")]
    assert origins[0]["base_model_sha256"] == origins[1]["base_model_sha256"]
    assert origins[0]["model_sha256"] != origins[1]["model_sha256"]
    assert json.loads((tmp_path / "run" / "samples" / "manifest.json").read_text())["passes"] == "bf16"


@pytest.mark.slow
def test_compiled_forgetting_and_sampling_agree_up_to_rounding_and_say_how_they_were_made(
    dualoptim: Run, tiny: str, no_dropout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    words = ["--class", "three", no_dropout, "method.num_steps=2", *SGD]
    for name, fast in (("plain", []), ("fast", ["run.channels_last=true", "run.compile=true"])):
        assert dualoptim("forget", tiny, *words, *fast, "--out", tmp_path / name).code == 0
    check_equal_but_for_rounding(tmp_path / "plain", tmp_path / "fast", [3e-4, 1e-4] * 2)
    manifests = [json.loads((tmp_path / name / "samples/manifest.json").read_text()) for name in ("plain", "fast")]
    assert [manifest["passes"] for manifest in manifests] == ["fp32", "fp32, channels_last, compiled"]
    shards = [sorted((tmp_path / name / "samples").glob("*.safetensors")) for name in ("plain", "fast")]
    plain, fast = (torch.cat([load_file(path)["images"] for path in part]).int() for part in shards)
    assert ((plain - fast).abs() > 1).float().mean() < 0.01
