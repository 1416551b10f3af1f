"""The job from Python: the same weights as from the command, any dataset, no files, wrong uses in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from dualoptim_diffusion import evaluate, forget, load_model, load_pipeline, sample
from dualoptim_diffusion.core.config import DataConfig, ForgetRecipe
from dualoptim_diffusion.core.errors import InputError, NonFiniteError
from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.data import load_dataset
from dualoptim_diffusion.data.given import image_set
from dualoptim_diffusion.judge.classifier import Classifier, ClassifierInfo
from dualoptim_diffusion.models import ConditionalDDPM, UNetModule, model_sha256
from dualoptim_diffusion.runs.finished import open_run
from dualoptim_diffusion.runs.models import open_base_model
from tests.helpers.commands import call

NOTEBOOK = Path(__file__).parents[2] / "scripts" / "from_python.ipynb"

SMALL = {
    "sample_size": 8, "in_channels": 3, "num_classes": 2, "width": 8, "multipliers": (1, 2), "layers_per_block": 1,
    "attention_resolutions": (), "mid_attention": False, "norm_groups": 2, "dropout": 0.0,
}  # fmt: skip
NAMES = {0: "cat", 1: "dog"}
SHAPE = (3, 8, 8)
QUICK = {"num_steps": 2, "batch_size": 4, "progress": False, "device": "cpu"}


def small_model() -> ConditionalDDPM:
    torch.manual_seed(0)
    return ConditionalDDPM(UNetModule(**SMALL), dict(NAMES))


def pixels(count: int = 6) -> torch.Tensor:
    return torch.randint(256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 1, 0, 1, 0, 1])


class Pairs(Dataset):
    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.make(pixels()[i]), int(LABELS[i])


def to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def test_the_command_and_the_function_give_the_same_weights_and_mask(finished: Path) -> None:
    base, _ = open_base_model(open_run(finished))
    recipe = load_recipe(ForgetRecipe, str(finished / "recipe.yaml"))
    chosen = recipe.method.model_dump(exclude={"name"}, exclude_unset=True)
    result = forget(
        base, load_dataset(DataConfig(name="digits"))[0], ["three"],
        method=recipe.method.name, optimizers=recipe.optimizers.model_dump(exclude_unset=True), progress=False,
        **chosen, seed=recipe.run.seed, device="cpu", batch_size=recipe.data.batch_size,
        horizontal_flip=recipe.data.horizontal_flip,
    )  # fmt: skip
    assert model_sha256(result.model) == model_sha256(load_model(finished / "model"))
    assert model_sha256(result.model) != model_sha256(base)
    assert result.model.forgotten == ["three"]
    assert base.forgotten == []
    assert len(result.log) == recipe.method.num_steps
    assert result.mask is not None


@pytest.mark.parametrize(
    "dataset",
    [
        (pixels(), LABELS),
        (pixels().permute(0, 2, 3, 1).numpy(), LABELS.numpy()),
        (pixels().float() / 255, LABELS),
        Pairs(to_pil),
        Pairs(lambda image: image),
        Pairs(lambda image: image.float() / 255),
    ],
    ids=["tensors", "arrays", "floats", "PIL", "uint8 examples", "ToTensor"],
)
def test_every_form_of_a_dataset_is_the_same_images(dataset: Any) -> None:
    found = image_set(dataset, NAMES, SHAPE)
    assert torch.equal(found.images, pixels())
    assert torch.equal(found.class_labels, LABELS)


def test_a_folder_dataset_is_matched_to_the_model_by_names(tmp_path: Path) -> None:
    for name, label in (("cat", 0), ("dog", 1)):
        (tmp_path / name).mkdir()
        to_pil(pixels()[label]).save(tmp_path / name / "0.png")
    other_order = {0: "dog", 1: "cat"}
    found = image_set(ImageFolder(str(tmp_path)), other_order, SHAPE)
    sums = {other_order[int(i)]: image.sum() for i, image in zip(found.class_labels, found.images, strict=True)}
    assert sums == {"cat": pixels()[0].sum(), "dog": pixels()[1].sum()}


def test_nothing_is_written_and_the_given_model_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALOPTIM_CACHE", str(tmp_path / "cache"))
    model = small_model()
    before, seen = model_sha256(model), []
    result = forget(model, (pixels(), LABELS), [0], on_step=lambda n, record: seen.append((n, record)), **QUICK)
    assert list(tmp_path.rglob("*")) == []
    assert model_sha256(model) == before != model_sha256(result.model)
    assert [n for n, _ in seen] == [1, 2]
    assert [record for _, record in seen] == result.log
    assert result.log[0].keys() >= {"forget_loss", "retain_loss", "gradient_cosine"}


def test_a_callback_that_raises_stops() -> None:
    def stop(finished: int, record: dict[str, float]) -> None:
        raise KeyError(finished)

    with pytest.raises(KeyError, match="1"):
        forget(small_model(), (pixels(), LABELS), ["cat"], on_step=stop, **QUICK)


def test_what_is_saved_is_a_pipeline_that_knows_what_it_forgot_and_nothing_is_overwritten(tmp_path: Path) -> None:
    result = forget(small_model(), (pixels(), LABELS), ["cat"], **QUICK)
    result.save(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "mask.safetensors", "metrics.jsonl", "model", "settings.json",
    }  # fmt: skip
    assert load_pipeline(tmp_path / "out" / "model").forgotten == ["cat"]
    assert model_sha256(load_model(str(tmp_path / "out" / "model"))) == model_sha256(result.model)
    with pytest.raises(InputError, match="is there already"):
        result.save(tmp_path / "out")


def test_samples_are_what_the_pipeline_draws_and_what_evaluate_takes() -> None:
    model = small_model()
    drawn = sample(model, ["dog", 0], range(3), device="cpu", num_inference_steps=2)
    assert set(drawn) == {0, 1}
    assert (drawn[0].shape, drawn[0].dtype) == ((3, *SHAPE), torch.uint8)
    assert torch.equal(drawn[1], sample(model, [1], [0, 1, 2], device="cpu", num_inference_steps=2)[1])
    assert set(sample(model, device="cpu", num_inference_steps=1, seeds=[0])) == {0, 1}
    assert callable(evaluate)


MODEL = small_model
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "an unknown class": (lambda: forget(MODEL(), (pixels(), LABELS), ["bird"], **QUICK), "'bird'"),
    "a label out of range": (lambda: forget(MODEL(), (pixels(), LABELS + 1), [0], **QUICK), "Labels run from 1 to 2"),
    "images of another size": (
        lambda: forget(MODEL(), (pixels()[..., :6], LABELS), [0], **QUICK),
        r"Image 0 has the shape \[3, 8, 6\], but the model draws \[3, 8, 8\]",
    ),
    "normalised images": (
        lambda: forget(MODEL(), (pixels() / 127.5 - 1, LABELS), [0], **QUICK),
        "floats in \\[0, 1\\]; leave out the normalisation",
    ),
    "fewer labels": (lambda: forget(MODEL(), (pixels(), LABELS[:3]), [0], **QUICK), "6 images, but 3 labels"),
    "no image of the class": (
        lambda: forget(MODEL(), (pixels(3), torch.ones(3, dtype=torch.long)), [0], **QUICK),
        "no image of 'cat'",
    ),
    "nothing to retain": (
        lambda: forget(MODEL(), (pixels(3), torch.zeros(3, dtype=torch.long)), [0], **QUICK),
        "nothing to retain",
    ),
    "an empty dataset": (lambda: forget(MODEL(), [], [0], **QUICK), "The dataset is empty"),
    "examples that are no pairs": (lambda: forget(MODEL(), [1, 2, 3], [0], **QUICK), "expected \\(image, label\\)"),
    "an unknown setting": (
        lambda: forget(MODEL(), (pixels(), LABELS), [0], num_step=3),
        "There is no setting 'num_step': .*num_steps",
    ),
    "a setting out of range": (
        lambda: forget(MODEL(), (pixels(), LABELS), [0], **{**QUICK, "num_steps": 0}),
        "method.num_steps is 0",
    ),
    "a setting that the method does not read": (
        lambda: forget(MODEL(), (pixels(), LABELS), [0], method="finetune", forget_lr=1e-3, **QUICK),
        "finetune does not read method.forget_lr",
    ),
    "an unknown method": (lambda: forget(MODEL(), (pixels(), LABELS), [0], method="sfon", **QUICK), "sfron"),
    "retraining": (lambda: forget(MODEL(), (pixels(), LABELS), [0], method="retrain", **QUICK), "from scratch"),
    "all classes": (lambda: forget(MODEL(), (pixels(), LABELS), [0, 1], **QUICK), "All 2 classes"),
    "no class": (lambda: forget(MODEL(), (pixels(), LABELS), [], **QUICK), "No class was named"),
    "an unknown setting of sampling": (lambda: sample(MODEL(), steps=3), "There is no setting 'steps'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_use_ends_in_one_sentence(name: str) -> None:
    act, said = WRONG[name]
    with pytest.raises(InputError, match=said) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_a_class_that_was_forgotten_before_is_neither_forgotten_again_nor_retained() -> None:
    result = forget(small_model_of_three(), (pixels(), LABELS), ["cat"], **QUICK)
    with pytest.raises(InputError, match="'cat' already"):
        forget(result.model, (pixels(), LABELS), ["cat"], **QUICK)
    with pytest.raises(InputError, match="nothing to retain"):
        forget(result.model, (pixels(), LABELS), ["dog"], **QUICK)


def small_model_of_three() -> ConditionalDDPM:
    torch.manual_seed(0)
    return ConditionalDDPM(UNetModule(**{**SMALL, "num_classes": 3}), {**NAMES, 2: "frog"})


def test_a_loss_that_is_no_number_stops_and_says_so() -> None:
    model = small_model()
    with torch.no_grad():
        next(model.network.parameters()).fill_(np.nan)
    with pytest.raises(NonFiniteError, match="nothing was stepped"):
        forget(model, (pixels(), LABELS), [0], method="finetune", **QUICK)


def test_the_notebook_runs_from_top_to_bottom(
    finished: Path, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    assert call("pretrain", recipes / "tiny_pretrain.yaml", "--out", tmp_path / "runs" / "base") == 0
    assert call("train-classifier", recipes / "tiny_classifier.yaml", "--out", tmp_path / "runs" / "judge") == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    quick = source.replace("num_steps=200", "num_steps=2").replace("num_inference_steps=25", "num_inference_steps=2")
    assert quick.count("=2)") >= 2
    exec(quick.replace('"num_batches": 20', '"num_batches": 1'), names := {})
    assert names["result"].model.forgotten == ["three"]
    assert (tmp_path / "runs" / "without-three" / "model" / "model_index.json").is_file()


class ByBrightness(Classifier):
    """Calls an image by its mean brightness; its features are the first pixels."""

    def __init__(self, id2label: dict[int, str]) -> None:
        super().__init__(nn.Identity(), ClassifierInfo("by brightness", 8, 3, id2label))

    def __call__(self, images: torch.Tensor, batch_size: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
        flat = images.flatten(1).float()
        called = (flat.mean(1) / 86).long().clamp(max=len(self.info.id2label) - 1)
        return flat[:, :6], nn.functional.one_hot(called, len(self.info.id2label)).float()


def test_figures_of_the_result_are_those_of_its_images() -> None:
    images, labels = pixels(12), LABELS.repeat(2)
    result = forget(small_model_of_three(), (images, labels), ["cat"], **QUICK)
    judge = ByBrightness(result.model.id2label)
    quick = {"num_inference_steps": 2}
    found = result.figures(judge, seeds=range(5), **quick)
    drawn = sample(result.model, seeds=range(5), device="cpu", **quick)
    expected = evaluate(drawn, judge, result.model.id2label, [0], images[labels != 0])
    assert found == expected
    assert found["FA"]["n"] == 5
    again = forget(result.model, (images, labels.where(labels == 1, 2)), ["frog"], **QUICK)
    assert again.figures(judge, seeds=range(5), reference=pixels(), **quick)["RA"]["n"] == 5  # of "dog" alone
