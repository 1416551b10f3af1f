"""--json: every verb has it, and stdout then holds one JSON document and nothing else."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from string import Template

import pytest
import typer
import yaml

from dualoptim_diffusion import cli
from tests.helpers.commands import Outcome, call
from tests.helpers.dit import tiny_vae
from tests.helpers.photos import write_photos
from tests.helpers.published import published_state, save
from tests.helpers.recipes import RECIPES

Run = Callable[..., Outcome]
QUICK = "--probe leakage audit.images=4 audit.labels=2 audit.guidance_scales=[0] audit.real_images=6"
COMMANDS = {  # and a key that its document holds
    "forget $tiny --class three --out $out": "unlearned",
    "forget $tiny --class three --dry-run": "estimated_seconds",
    "saliency $tiny --class three --out $out": "density",
    "encode $latent": "moments",
    "evaluate $run": "unlearned",
    f"audit $run {QUICK}": "probes",
    "report $run --out $out": "rows",
    "grid $run --out $out/grid.png": "image",
    "grid $run --contact-sheet three --out $out/sheet.png": "image",
    "sample $run --class three --seeds 0-3 --out $out": "images",
    "pretrain $recipes/tiny_pretrain.yaml --out $out": "sha256",
    "pretrain $recipes/tiny_pretrain.yaml --dry-run": "estimated_seconds",
    "train-classifier $recipes/tiny_classifier.yaml --out $out": "accuracy",
    "train-classifier $recipes/tiny_classifier.yaml --dry-run": "estimated_seconds",
    "import $checkpoint --out $out": "parameters",
    "export $run --out $out": "parameters",
    "delta $run --out $out": "patch_bytes",
    "apply $base $patch --out $out": "sha256",
    "push $run owner/name --dry-run": "files",
    "init $photos --out $out": "plan",
    "recipes": None,
    "methods": None,
    "classes $tiny": "3",
}


@pytest.fixture(scope="module")
def names(finished: Path, recipes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Of the table's files: a copy of a run, a published checkpoint, and the recipe of a model of latents."""
    folder = tmp_path_factory.mktemp("json")
    shutil.copytree(finished, folder / "run")
    save(folder / "c.pth", published_state())
    data = {"name": "image_folder", "path": str(write_photos(folder / "photos")), "image_size": 16}
    tiny_vae().save_pretrained(folder / "vae")
    model = {"family": "dit", "vae": "vae", "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
    training = {"num_steps": 1, "lr": 1e-3}
    (folder / "base.yaml").write_text(yaml.safe_dump({"data": data, "model": model, "training": training}))
    latent = RECIPES["tiny.yaml"] | {"data": data, "model": {"pretrain": "base.yaml"}}
    (folder / "latent.yaml").write_text(yaml.safe_dump(latent | {"evaluation": {"classifier": "digits_classifier"}}))
    assert call("pretrain", recipes / "tiny_pretrain.yaml", "--out", folder / "base") == 0
    assert call("delta", folder / "run", "--out", folder / "three.safetensors") == 0
    return {
        "tiny": recipes / "tiny.yaml", "recipes": recipes, "run": folder / "run", "checkpoint": folder / "c.pth",
        "latent": folder / "latent.yaml", "photos": folder / "photos", "base": folder / "base",
        "patch": folder / "three.safetensors",
    }  # fmt: skip


def no_constant(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


@pytest.mark.parametrize("command", COMMANDS)
def test_stdout_is_one_json_document(dualoptim: Run, names: dict[str, object], tmp_path: Path, command: str) -> None:
    (tmp_path / "out").mkdir() if "grid" in command else None
    words = shlex.split(Template(command).substitute(names, out=tmp_path / "out"))
    outcome = dualoptim(*words, "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out, parse_constant=no_constant)
    key = COMMANDS[command]
    assert document if key is None else key in document


def test_the_table_has_every_verb() -> None:
    verbs = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert {command.split()[0] for command in COMMANDS} == verbs.keys()


def test_a_refused_command_leaves_stdout_empty(dualoptim: Run, names: dict[str, object]) -> None:
    outcome = dualoptim("forget", names["tiny"], "--class", "nil", "--json")
    assert outcome.code == 1
    assert outcome.out == ""


def test_forget_ends_with_commands_that_can_be_copied_whatever_the_folder_is_called(
    dualoptim: Run, names: dict[str, object], tmp_path: Path
) -> None:
    out = tmp_path / "it's $HOME"
    outcome = dualoptim("forget", names["tiny"], "--class", "three", "--out", out)
    assert outcome.code == 0, outcome.err
    lines = outcome.err.split("What to do next:\n")[1].splitlines()
    page, audit, export = (shlex.split(line) for line in lines)
    assert Path(page[1]) == out / "report.html"
    assert Path(page[1]).is_file()
    assert audit == ["dualoptim", "audit", str(out), "--retrain"]
    assert call(*export[1:]) == 0
    assert (Path(export[-1]) / "model_index.json").is_file()
    verbs = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    verbs["audit"].make_context("audit", audit[2:])
