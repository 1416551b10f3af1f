"""Whatever is wrong: one plain sentence, a non-zero exit, nothing written or lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dualoptim_diffusion.core.errors import EXIT_DIVERGED
from tests.helpers.commands import Outcome, refused

Run = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--class", "thre"], "There is no class 'thre': did you mean three"),
        (["--class", "12"], "There is no class '12'"),
        ([], "No class was named"),
        (["--class", "three", "method.forget_lrr=1"], "did you mean forget_lr"),
        (["--class", "three", "method.forget_lr=abc"], "method.forget_lr is 'abc'"),
        (["--class", "three", "method.name=sfronn"], "did you mean sfron"),
        (["--class", "three", "optimizers.forget=adamm"], "did you mean adam"),
        (["--class", "three", "run.device=tpu"], "run.device is 'tpu'"),
        (["--class", "three", "run.device=cuda"], "this machine has none"),
        (["--class", "three", "model.path=nowhere"], "no pipeline folder 'nowhere'"),
        (["--class", "three", "model.pretrain=nowhere"], "no recipe 'nowhere'"),
        (["--class", "three", "evaluation.classifier=nowhere"], "no recipe 'nowhere'"),
        (["--class", "three", "sampling.seeds=9-1"], "run backwards"),
        (["--class", "three", "--mask", "nowhere.safetensors"], "no mask file"),
        (["--class", "three", "--resume", "--overwrite"], "give one of them"),
        ([word for i in range(10) for word in ("--class", str(i))], "at least one must be retained"),
    ],
)
def test_a_wrong_request_writes_nothing(
    dualoptim: Run, tiny: str, tmp_path: Path, arguments: list[str], sentence: str, finished: Path
) -> None:
    if "run.device=cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    refused(dualoptim("forget", tiny, "--out", tmp_path / "run", *arguments), sentence)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_kept_unless_overwrite_is_asked_for(
    dualoptim: Run, tiny: str, finished: Path, tmp_path: Path
):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    refused(dualoptim("forget", tiny, "--class", "three", "--out", run), "use --resume to continue, --overwrite")
    refused(dualoptim("forget", tiny, "--class", "four", "--out", run, "--resume"), "another recipe or class")
    refused(dualoptim("forget", tiny, "--class", "nil", "--out", run, "--overwrite"), "no class 'nil'")
    refused(
        dualoptim("forget", tiny, "--class", "three", "--out", run, "--overwrite", "--mask", "nowhere"), "no mask file"
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert dualoptim("forget", tiny, "--class", "four", "--out", run, "--overwrite").code == 0
    assert json.loads((run / "results.json").read_text())["forgotten"] == ["four"]


def test_a_folder_that_is_no_run_is_never_overwritten(
    dualoptim: Run, tiny: str, tmp_path: Path, finished: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for option in ([], ["--overwrite"], ["--resume"]):
        refused(dualoptim("forget", tiny, "--class", "three", "--out", tmp_path, *option), "is not a run folder")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_classifier_without_the_class_is_refused_before_anything_is_trained(
    dualoptim: Run, tiny: str, recipes: Path, tmp_path: Path, finished: Path
) -> None:
    judge = tmp_path / "judge"
    assert dualoptim("train-classifier", recipes / "tiny_classifier.yaml", "--out", judge).code == 0
    info = json.loads((judge / "classifier.json").read_text())
    info["id2label"]["3"] = "owl"
    (judge / "classifier.json").write_text(json.dumps(info))
    command = ["forget", tiny, f"evaluation.classifier={judge}", "--class", "three", "--out", tmp_path / "run"]
    refused(dualoptim(*command), "does not know the class 'three'")
    assert not (tmp_path / "run").exists()
    (judge / "classifier.safetensors").unlink()
    refused(dualoptim(*command), "is not a folder of `dualoptim train-classifier`")


@pytest.mark.parametrize("verb", ["evaluate", "report", "grid", "sample", "classes"])
def test_a_missing_run_is_named_by_every_verb(dualoptim: Run, verb: str, tmp_path: Path) -> None:
    arguments = ["--out", tmp_path / "out"] if verb in ("sample", "grid") else []
    refused(dualoptim(verb, tmp_path / "nowhere", *arguments), "nowhere")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--class", "thirteen"], "There is no class 'thirteen'"),
        (["--seeds", "x"], "not of the form"),
        (["--scheduler", "euler"], "scheduler is 'euler'"),
        (["--steps", "0"], "num_inference_steps is 0"),
    ],
)
def test_wrong_sampling_options_draw_nothing(
    dualoptim: Run, finished: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    refused(dualoptim("sample", finished, "--out", tmp_path / "out", *options), sentence)
    assert not (tmp_path / "out").exists()


def test_outputs_of_other_verbs_are_not_overwritten_unasked(dualoptim: Run, recipes: Path, tiny: str, tmp_path: Path):
    for verb, recipe in (
        ("pretrain", recipes / "tiny_pretrain.yaml"),
        ("train-classifier", recipes / "tiny_classifier.yaml"),
        ("saliency", tiny),
    ):
        (tmp_path / verb).write_text("precious")
        refused(dualoptim(verb, recipe, "--out", tmp_path / verb), "use --overwrite")
        assert (tmp_path / verb).read_text() == "precious"


def test_a_pretraining_recipe_where_a_forgetting_one_belongs_is_refused(dualoptim: Run) -> None:
    refused(dualoptim("forget", "digits_pretrain", "--class", "three"), "Recipe")


def test_diverging_weights_stop_with_the_phase_and_step(
    dualoptim: Run, tiny: str, tmp_path: Path, finished: Path
) -> None:
    outcome = dualoptim(
        "forget", tiny, "method.forget_lr=1e30", "method.num_steps=50", "--class", "three", "--out", tmp_path / "run"
    )
    refused(outcome, "nothing was stepped", EXIT_DIVERGED)
    assert "of step" in outcome.err


def test_overwrite_never_deletes_what_the_run_needs(dualoptim: Run, tiny: str, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    options = ["--class", "eight", "--out", run, "--overwrite"]
    for arguments in (
        [run / "recipe.yaml"],
        [tiny, f"model.path={run / 'model'}"],
        [tiny, "--mask", run / "mask.safetensors"],
    ):
        refused(dualoptim("forget", *arguments, *options), "would delete")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_is_never_replaced_by_a_file(dualoptim: Run, finished: Path, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.txt").write_text("precious")
    refused(dualoptim("grid", finished, "--out", tmp_path / "pictures"), "use --overwrite")
    refused(dualoptim("grid", finished, "--out", tmp_path / "pictures", "--overwrite"), "not what this command writes")
    refused(dualoptim("saliency", tiny, "--out", tmp_path / "pictures", "--overwrite"), "not what this command writes")
    refused(dualoptim("sample", finished, "--out", tmp_path / "pictures"), "holds no samples of this kind")
    assert (tmp_path / "pictures" / "cat.txt").read_text() == "precious"


def test_a_run_whose_base_model_changed_is_not_scored(dualoptim: Run, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    origin = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps(origin | {"base_model_sha256": "0" * 64}))
    refused(dualoptim("evaluate", run), "The base model is not the one")


def test_damaged_files_of_a_run_are_named(dualoptim: Run, tiny: str, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "results.json").write_text("{}")
    refused(dualoptim("report", run), "no readable results")
    (run / "checkpoints" / "step_6" / "state.safetensors").write_bytes(b"short")
    refused(dualoptim("forget", tiny, "--class", "three", "--out", run, "--resume"), "No checkpoint verifies")
    (run / "recipe.yaml").write_text("{")
    for command in (["evaluate", run], ["sample", run, "--out", tmp_path / "out"]):
        refused(dualoptim(*command), "is not YAML")


def test_a_pipeline_folder_with_pickled_weights_is_refused(dualoptim: Run, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "model", tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({"weight": torch.zeros(1)}, weights.with_suffix(".bin"))
    weights.unlink()
    refused(dualoptim("sample", tmp_path / "model", "--out", tmp_path / "out"), "is not a pipeline folder")


def test_fp16_launches_are_refused_with_the_remedy(
    dualoptim: Run, tiny: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    refused(dualoptim("forget", tiny, "--class", "three", "--out", tmp_path / "run"), "launch with bf16")


def allocate_too_much() -> None:
    torch.empty(2**55, dtype=torch.uint8)


def run_out_on_a_device() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")


def run_out_in_python() -> None:
    raise MemoryError


@pytest.mark.parametrize("work", [allocate_too_much, run_out_on_a_device, run_out_in_python])
def test_too_little_memory_is_said_with_what_takes_less(
    dualoptim: Run, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]
) -> None:
    monkeypatch.setattr("dualoptim_diffusion.runs.forget.forget", lambda *_, **__: work())
    outcome = dualoptim("forget", tiny, "--class", "three", "--out", tmp_path / "run")
    refused(outcome, "There is not enough memory (")
    assert "run.micro_batch_size" in outcome.err


def test_an_error_of_our_own_is_not_hidden(
    dualoptim: Run, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("dualoptim_diffusion.runs.forget.forget", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        dualoptim("forget", tiny, "--class", "three", "--out", tmp_path / "run")
