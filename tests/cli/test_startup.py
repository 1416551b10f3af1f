"""What each command loads, which is most of what a short command takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "accelerate", "bitsandbytes", "diffusers", "huggingface_hub", "matplotlib", "scipy", "sklearn", "timm", "torch",
    "torch._dynamo", "torch_fidelity", "torchvision",
}  # fmt: skip
TORCH = {"torch", "accelerate", "huggingface_hub"}  # the last by older versions of accelerate
CHAINS: list[dict[str, set[str]]] = [  # a process each; what one command may load, the next ones may too
    {
        "--help": set(),
        "--version": set(),
        "forget --help": set(),
        "recipes": set(),
        "recipes --json": set(),
        "classes digits_sfron_dual": set(),
        "classes cifar10_sfron_dual": set(),
        "classes {photos}": set(),
        "classes {run}": set(),
        "forget {tiny} --class three --dry-run": TORCH,  # the base model and the classifier are kept
        "forget {tiny} --class three --dry-run model.family=dit model.pretrain=tiny_dit_pretrain.yaml": TORCH,
        "grid {run} --out {out}/grid.png": TORCH,
        "grid {run} --contact-sheet three --out {out}/sheet.png": TORCH,
        "delta {run} --out {out}/patch.safetensors": TORCH,
        "push {run} someone/three --dry-run": TORCH,
    },
    {"report {run} --out {out}/report": {"matplotlib"}},
]
CODE = f"""
import json, sys
from tests.helpers.commands import call
for words in json.loads(sys.argv[1]):
    code = call(*words)
    assert not code, (words, code)
    print("loaded:", *sorted({HEAVY} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def places(finished: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run, a recipe of photographs, and a folder to write to."""
    out = tmp_path_factory.mktemp("startup")
    for name in ("cat", "dog"):
        (out / "data" / "train" / name).mkdir(parents=True)
        (out / "data" / "train" / name / "0.png").write_bytes(b"not opened")
    photos = out / "photos.yaml"
    photos.write_text(
        f"data: {{name: image_folder, path: {out / 'data'}}}\n"
        "method: {name: finetune, num_steps: 1, retain_lr: 1e-4}\nmodel: {path: somewhere}\n"
        "evaluation: {classifier: digits_classifier.yaml}\n"
    )
    return {"tiny": Path(tiny), "run": finished, "photos": photos, "out": out / "written"}


@pytest.mark.parametrize("chain", CHAINS, ids=["light first, then those that compute", "report"])
def test_a_command_loads_no_more_than_it_uses(chain: dict[str, set[str]], places: dict[str, Path]) -> None:
    commands = [words.format(**places).split() for words in chain]
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(commands)], capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split()[1:] for line in done.stderr.splitlines() if line.startswith("loaded:")]
    for (words, allowed), loaded in zip(chain.items(), lines, strict=True):
        assert {*loaded} <= allowed, words
