"""Model folders and run folders that were saved before the package was laid out anew load and draw as they did.

`saved/` holds the text of such folders as they were written; weights are made here from the names and shapes they had.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dualoptim_diffusion import load_pipeline
from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.recipes import load_recipe, read_yaml, recipe_folder, recipe_sha256
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.runs.experiment import open_experiment
from tests.helpers.numerics import RECORDED, widen

Run = Callable[..., Any]
SAVED = Path(__file__).parent / "saved"
DIGESTS = json.loads((SAVED / "digests.json").read_text())
HASHES = json.loads((SAVED / "recipe_hashes.json").read_text())
NETWORK = {"ddpm": "unet", "dit": "transformer", "run": "unet"}
CLASS_OF = {"digits": "three", "cifar10": "cat", "imagenet": "golden retriever"}


def weights(name: str, shape: list[int]) -> Tensor:
    """Values in [-0.25, 0.25] that depend on the name alone, exact on every machine."""
    count = torch.Size(shape).numel()
    return (((torch.arange(count, dtype=torch.float64) * 7919 + crc32(name.encode())) % 2001 - 1000) / 4000).view(
        shape
    ).float()  # fmt: skip


def restored(kind: str, folder: Path) -> Path:
    """The saved folder with weights in its model."""
    shutil.copytree(SAVED / kind, folder)
    model = folder / "model" if kind == "run" else folder
    shapes = json.loads((model / "tensors.json").read_text())
    tensors = {name: weights(name, shape) for name, shape in shapes.items()}
    save_file(tensors, model / NETWORK[kind] / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.mark.numerical
@pytest.mark.parametrize("kind", ["ddpm", "dit"])
def test_a_saved_model_folder_loads_and_draws_the_same_bits(kind: str, tmp_path: Path) -> None:
    pipeline = load_pipeline(restored(kind, tmp_path / "model"))
    assert pipeline.id2label[2] == "great white shark, Carcharodon carcharias"
    assert pipeline.forgotten == ["dog"]
    shape = pipeline.shape()
    x_t = torch.linspace(-1, 1, 2 * torch.Size(shape).numel()).view(2, *shape)
    widen(pipeline.network)  # float32 would round otherwise on another machine, and so might a pixel
    output = pipeline.network(x_t, torch.tensor([10, 900]), torch.tensor([0, 3]), return_dict=False)[0].flatten()
    recorded = torch.tensor(DIGESTS[kind]["output"], dtype=torch.float64)
    torch.testing.assert_close(output[:: max(1, len(output) // 24)], recorded, atol=RECORDED, rtol=0)
    images = pipeline(
        ["cat", "great white shark"], seeds=DIGESTS[kind]["seeds"], num_inference_steps=3, guidance_scale=1.5,
        output_type="uint8",
    ).images  # fmt: skip
    assert hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest() == DIGESTS[kind]["sha256"]


def test_a_saved_run_folder_is_listed_loaded_and_reported(dualoptim: Run, tmp_path: Path) -> None:
    run = restored("run", tmp_path / "run")
    assert load_pipeline(run).forgotten == ["three"]
    assert "3  three" in dualoptim("classes", run).out
    outcome = dualoptim("report", run)
    assert outcome.code == 0, outcome.err
    assert "unlearned  0.0% (0/4, 95% 0.0% to 49.0%)  11.1% (n=36, 95% 4.4% to 25.3%)  0.0% (0/4" in outcome.out
    page = (run / "report.html").read_text()
    assert "leakage" in page
    assert "Gradient norm" in page
    recorded = json.loads((run / "provenance.json").read_text())["recipe_sha256"]
    assert recipe_sha256(read_yaml(run / "recipe.yaml")) == recorded
    assert open_experiment(str(run / "recipe.yaml")).recipe_sha256 == recorded


@pytest.mark.parametrize("name", sorted(HASHES))
def test_a_packaged_recipe_has_the_hash_under_which_its_results_are_cached(name: str) -> None:
    if name.endswith("_pretrain"):
        found = recipe_sha256(load_recipe(PretrainRecipe, name).model_dump(mode="json"))
    elif name.endswith(("_classifier", "_features")):
        found = recipe_sha256(load_recipe(ClassifierRecipe, name).model_dump(mode="json"))
    else:
        load_recipe(ForgetRecipe, name)
        found = open_experiment(name, [CLASS_OF[name.split("_")[0]]], ["run.device=cpu"]).recipe_sha256
    assert found == HASHES[name]


def test_no_packaged_recipe_is_left_out() -> None:
    assert HASHES.keys() == {path.stem for path in recipe_folder().glob("*.yaml")}
