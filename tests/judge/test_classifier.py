"""The judge: its weights come whole or not at all, and it may answer that an image shows none of the classes."""

from pathlib import Path

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from dualoptim_diffusion.core.classes import CIFAR10 as NAMES
from dualoptim_diffusion.core.classes import NONE_OF_THESE, resolve_class, same_classes, usable_names
from dualoptim_diffusion.core.config import DataConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.training_config import ClassifierConfig, ClassifierRecipe, ClassifierTrainingConfig
from dualoptim_diffusion.data import ImageSet, images_of_nothing, load_dataset
from dualoptim_diffusion.data.imagenet import class_names
from dualoptim_diffusion.evaluation import match_classes
from dualoptim_diffusion.judge.classifier import (
    Classifier,
    ClassifierInfo,
    new_classifier,
    timm_network,
)
from dualoptim_diffusion.judge.training import _augment, train_classifier, turned, with_accuracy
from dualoptim_diffusion.runs.evaluate import check_judge
from dualoptim_diffusion.runs.obtain import make_accelerator, obtain_trained_classifier
from tests.helpers.numerics import rounding

TEN = {i: f"class {i}" for i in range(10)}


def config(**options: object) -> ClassifierConfig:
    return ClassifierConfig.model_validate({"name": "resnet18", "image_size": 32} | options)


def checkpoint(folder: Path, num_classes: int, prefix: str = "") -> Path:
    """Weights as torchvision and most training scripts save them."""
    torch.manual_seed(0)
    state = timm.create_model("resnet18", num_classes=num_classes).state_dict()
    path = folder / f"resnet18-{num_classes}{prefix}.pth"
    torch.save({prefix + name: value for name, value in state.items()}, path)
    return path


@pytest.mark.numerical
def test_a_checkpoint_with_its_head_judges_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(tmp_path, 10, prefix="module.")
    classifier = new_classifier(config(checkpoint=str(path)), TEN, in_channels=1, num_steps=0)
    network = timm.create_model("resnet18", num_classes=10).eval()
    network.load_state_dict({k.removeprefix("module."): v for k, v in torch.load(path, weights_only=True).items()})
    images = torch.randint(256, (3, 1, 32, 32), dtype=torch.uint8)
    ready = classifier.preprocess(images).double()
    exact = (images.double() / 127.5 - 1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(ready, exact, rtol=0, atol=rounding(4))  # divide, subtract, divide, resize
    for judge in (classifier.network, network):
        judge.double()
    monkeypatch.setattr(classifier, "preprocess", lambda _: ready)
    torch.testing.assert_close(classifier(images)[1], network(ready), rtol=0, atol=1e-12)


def test_a_silently_dropped_head_is_refused(tmp_path: Path) -> None:
    path = str(checkpoint(tmp_path, 1000))
    with pytest.raises(InputError, match=r"head .* is not for these classes"):
        new_classifier(config(checkpoint=path), TEN, 3, num_steps=0)
    with pytest.raises(InputError, match="a head that nothing has trained"):
        new_classifier(config(), TEN, 3, num_steps=0)
    new_classifier(config(checkpoint=path), TEN, 3, num_steps=1)  # training follows: the trunk is enough


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit the network"):
        new_classifier(config(name="resnet34", checkpoint=str(checkpoint(tmp_path, 10))), TEN, 3, num_steps=5)
    with pytest.raises(InputError, match="no weight file"):
        new_classifier(config(checkpoint=str(tmp_path / "none.pth")), TEN, 3, num_steps=5)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)


def test_code_in_a_weight_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="cannot be read as a file of plain tensors"):
        new_classifier(config(checkpoint="evil.pth"), TEN, 3, num_steps=5)
    assert not (tmp_path / "executed").exists()


def test_features_of_any_timm_model_come_from_a_file_with_its_own_preprocessing(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = timm.create_model("test_resnet")
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    source = timm_network("test_resnet", tmp_path / "weights.safetensors")
    assert source.info.image_size == network.pretrained_cfg["input_size"][1]
    assert tuple(source.info.mean) == tuple(network.pretrained_cfg["mean"])
    features, logits = source(torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8))
    assert features.shape == (2, network.num_features)
    assert logits.shape == (2, network.num_classes)


@pytest.mark.numerical
def test_preprocessing_is_recorded_and_survives_the_folder(tmp_path: Path) -> None:
    info = ClassifierInfo("test_resnet", 32, 3, TEN, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    classifier = Classifier.create(info)
    classifier.save(tmp_path / "judge")
    loaded = Classifier.load(tmp_path / "judge")
    white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor(info.mean)) / torch.tensor(info.std)
    torch.testing.assert_close(loaded.preprocess(white)[0, :, 0, 0], expected, rtol=rounding(8), atol=0)  # resized
    assert torch.equal(loaded(white)[1], classifier(white)[1])


def test_images_of_nothing_follow_their_generator_and_never_show_the_image() -> None:
    real = torch.arange(3 * 7 * 8).view(1, 3, 7, 8).to(torch.uint8)  # odd height, all pixels distinct
    drawn = [images_of_nothing(real, 200, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert drawn[0].shape == (200, 3, 7, 8)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert (drawn[0] != real).flatten(1).any(1).all()


def digits_recipe(**training: object) -> ClassifierRecipe:
    settings = ClassifierTrainingConfig.model_validate({"num_steps": 150, "lr": 2e-3} | training)
    data, network = DataConfig(name="digits", batch_size=32), config(name="test_resnet")
    return ClassifierRecipe(data=data, classifier=network, training=settings)


def test_a_judge_trained_with_images_of_nothing_says_so_and_still_knows_the_digits() -> None:
    train_set, held_out = load_dataset(DataConfig(name="digits"))
    judge = train_classifier(digits_recipe(noise=0.2, none_share=0.5), train_set, held_out, "cpu")
    none = len(train_set.id2label)
    assert judge.info.id2label[none] == NONE_OF_THESE
    nothing = images_of_nothing(held_out.images, 200, torch.Generator().manual_seed(9))
    assert (judge(nothing)[1].argmax(1) == none).float().mean() > 0.8
    assert sum(judge.info.accuracy.values()) / 10 > 0.9
    block = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    block[:, :, 1:6, 2:6] = 255  # what a collapsed label drew
    assert judge(block)[1].argmax(1).item() == none


def test_a_batch_is_turned_by_right_angles_and_says_by_how_many() -> None:
    images = torch.arange(2 * 9).float().view(2, 1, 3, 3).repeat(20, 1, 1, 1)
    inputs, turns = turned(images, torch.Generator().manual_seed(0))
    assert set(turns.tolist()) == {0, 1, 2, 3}
    back = torch.stack([image.rot90(-k, (1, 2)) for image, k in zip(inputs, turns.tolist(), strict=True)])
    assert torch.equal(back, images)


def test_a_network_that_tells_rotations_has_never_been_asked_for_a_class() -> None:
    """Its features are the same whatever the classes are called and whichever image is of which."""
    train, held_out = load_dataset(DataConfig(name="digits"))
    settings = {"data": {"name": "digits", "batch_size": 16}, "classifier": {"name": "test_resnet", "image_size": 32}}
    settings["training"] = {"task": "rotations", "num_steps": 40, "lr": 2e-3}
    recipe = ClassifierRecipe.model_validate(settings)
    one = train_classifier(recipe, train, held_out, "cpu")
    shuffled = ImageSet(train.images, train.class_labels.flip(0), train.id2label)
    assert one.sha256 == train_classifier(recipe, shuffled, held_out, "cpu").sha256
    assert list(one.info.accuracy) == ["upright", "turned left", "upside down", "turned right"]
    assert sum(one.info.accuracy.values()) / 4 > 0.5  # by chance a quarter
    with pytest.raises(ValidationError, match="none_share 0 and no horizontal_flip"):
        ClassifierRecipe.model_validate(settings | {"training": settings["training"] | {"none_share": 0.5}})


def test_accuracy_is_matched_by_name() -> None:
    _, held_out = load_dataset(DataConfig(name="digits"))
    few = ImageSet(held_out.images[:5], torch.zeros(5, dtype=torch.int64), {0: "zero"})
    backwards = Classifier.create(ClassifierInfo("test_resnet", 32, 1, {0: "one", 1: "zero"}))
    predicted = backwards(few.images)[1].argmax(1)
    assert with_accuracy(backwards, few).info.accuracy == {"zero": (predicted == 1).double().mean().item()}


def test_flips_in_training_mirror_about_half_of_the_images_and_are_off_by_default() -> None:
    inputs = torch.arange(64.0).view(64, 1, 1, 1) * torch.tensor([1.0, 2.0]) + 1
    plain, flipped = (
        _augment(inputs, ClassifierTrainingConfig(num_steps=1, horizontal_flip=flip), torch.Generator().manual_seed(0))
        for flip in (False, True)
    )
    assert torch.equal(plain, inputs)
    mirrored = (flipped == inputs.flip(-1)).flatten(1).all(1)
    assert 20 < mirrored.sum() < 44
    assert torch.equal(flipped[~mirrored], inputs[~mirrored])


def test_a_judge_of_imagenet_knows_classes_by_id_though_a_few_names_differ_and_two_are_alike() -> None:
    names = class_names()
    judge = Classifier.create(ClassifierInfo("test_resnet", 32, 3, names))
    assert [i for i, name in names.items() if name.startswith("crane (")] == [134, 517]
    assert match_classes(judge, names) == {i: i for i in names}
    spelt = {i: f"class {i}" if i < 10 else name for i, name in names.items()}
    assert match_classes(judge, spelt) == {i: i for i in names}
    with pytest.raises(InputError, match="does not know the class 'class 0'"):
        match_classes(judge, spelt | {20: "a bird", 21: "another"})
    alike = Classifier.create(ClassifierInfo("test_resnet", 32, 3, {0: "crane", 1: "cat", 2: "crane"}))
    with pytest.raises(InputError, match="'crane' alone by that name"):
        match_classes(alike, {5: "crane"})
    swapped = names | {0: names[1], 1: names[0]}
    assert not same_classes(names, swapped)
    assert usable_names({0: "crane", 1: "cat", 2: "crane"}) == {0: "crane (0)", 1: "cat", 2: "crane (2)"}
    assert resolve_class("Crane (134)", names) == 134
    with pytest.raises(InputError, match=r"ambiguous: 134 \(crane\), 517"):
        resolve_class("crane", names)


def test_ten_classes_must_agree_in_every_name_and_in_their_order() -> None:
    names = dict(enumerate(NAMES))
    assert same_classes(names, dict(names))
    assert not same_classes(names, names | {3: "kitten"})
    assert not same_classes(names, dict(enumerate(reversed(NAMES))))
    assert not same_classes(names, {i: names[i] for i in range(9)})


def test_a_judge_that_is_not_trained_needs_no_images_and_is_then_unmeasured(tmp_path: Path) -> None:
    weights = str(tmp_path / "weights.safetensors")
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), weights)
    recipe = ClassifierRecipe.model_validate(
        {
            "data": {"name": "imagenet", "image_size": 32},
            "classifier": {
                "name": "test_resnet",
                "image_size": 32,
                "checkpoint": str(tmp_path / "weights.safetensors"),
            },
            "training": {"num_steps": 0},
        }
    )
    judge = Classifier.load(obtain_trained_classifier(recipe, make_accelerator("cpu")))
    assert judge.info.accuracy == {}
    assert check_judge(judge, ["golden retriever"], 0.6) is False
    trained = recipe.model_copy(update={"training": recipe.training.model_copy(update={"num_steps": 1})})
    with pytest.raises(InputError, match="ImageNet is not here"):
        obtain_trained_classifier(trained, make_accelerator("cpu"))
