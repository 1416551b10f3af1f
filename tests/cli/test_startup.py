"""What each command loads, which is most of what a short command takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "accelerate", "bitsandbytes", "diffusers", "huggingface_hub", "matplotlib", "scipy", "sklearn", "timm", "torch",
    "torch._dynamo", "torch_fidelity", "torchvision",
}  # fmt: skip
TORCH = {"torch", "accelerate", "huggingface_hub"}  # the last by older versions of accelerate
MAY_LOAD: dict[str, set[str]] = {
    "--help": set(),
    "--version": set(),
    "forget --help": set(),
    "recipes": set(),
    "recipes --json": set(),
    "classes digits_sfron_dual": set(),
    "classes cifar10_sfron_dual": set(),
    "classes {photos}": set(),
    "classes {run}": set(),
    "report {run} --out {out}": {"matplotlib"},
    "forget {tiny} --class three --dry-run": TORCH,  # the base model and the classifier are kept
    "forget {tiny} --class three --dry-run model.family=dit model.pretrain=tiny_dit_pretrain.yaml": TORCH,
    "grid {run} --out {out}/grid.png": TORCH,
    "grid {run} --contact-sheet three --out {out}/sheet.png": TORCH,
    "delta {run} --out {out}/patch.safetensors": TORCH,
    "push {run} someone/three --dry-run": TORCH,
}
CODE = f"""
import sys
from dualoptim_diffusion.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sorted({HEAVY} & sys.modules.keys()), file=sys.stderr)
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


@pytest.mark.parametrize("words", MAY_LOAD)
def test_a_command_loads_no_more_than_it_uses(words: str, places: dict[str, Path]) -> None:
    command = [sys.executable, "-c", CODE, *words.format(**places).split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.splitlines()[-1].split()) <= MAY_LOAD[words]
