"""Real data sets: image folders, CIFAR-10's batches; what is held in memory, what is kept, what is refused."""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.datasets import CIFAR10

from dualoptim_diffusion.core.classes import CIFAR10 as NAMES
from dualoptim_diffusion.core.config import DataConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.hashes import file_sha256
from dualoptim_diffusion.core.training_config import ClassifierRecipe
from dualoptim_diffusion.data import Batches, ImageSet, data_facts, load_dataset, pixels, split
from dualoptim_diffusion.data.pixels import FolderPixels
from dualoptim_diffusion.files import contents
from dualoptim_diffusion.files.cache import get_or_make_locked
from dualoptim_diffusion.files.class_folders import list_folder
from dualoptim_diffusion.judge.classifier import new_classifier
from dualoptim_diffusion.judge.training import with_accuracy
from tests.helpers.cifar import write_cifar
from tests.helpers.commands import Outcome
from tests.helpers.recipes import RECIPES
from tests.helpers.toy_model import ToyModel

Run = Callable[..., Outcome]
CLASSES = ("ant", "bee", "cow")


def write(path: Path, seed: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = () if mode == "L" else (3,)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of ten training and two test images, PNG and JPEG."""
    for c, name in enumerate(CLASSES):
        for i in range(10):
            write(tmp_path / "train" / name / f"{i}.{'png' if i % 2 else 'jpg'}", 100 * c + i)
        for i in range(2):
            write(tmp_path / "test" / name / f"{i}.png", 1000 + 100 * c + i)
    return tmp_path


def config(path: Path, **words: object) -> DataConfig:
    return DataConfig(name="image_folder", path=str(path), **words)


def test_a_folder_of_classes_is_two_sets_with_its_names_in_order(photos: Path) -> None:
    train, test = load_dataset(config(photos))
    assert train.id2label == dict(enumerate(CLASSES))
    assert (len(train), len(test), tuple(train.images.shape)) == (30, 6, (30, 3, 16, 16))
    expected = np.array(Image.open(photos / "train" / "bee" / "3.png"))
    assert np.array_equal(train.images[13].permute(1, 2, 0).numpy(), expected)
    facts = data_facts(config(photos))
    assert (facts.id2label, facts.shape, facts.counts) == (train.id2label, (3, 16, 16), {0: 10, 1: 10, 2: 10})


def test_forget_and_retain_sets_are_disjoint_exhaustive_and_can_leave_a_class_out(photos: Path) -> None:
    train, _ = load_dataset(config(photos))
    forget, retain = split(train, (1,))
    assert (set(forget.class_labels.tolist()), set(retain.class_labels.tolist())) == ({1}, {0, 2})
    assert len(forget) + len(retain) == len(train)
    _, retain = split(train, (1,), left_out=(2,))
    assert set(retain.class_labels.tolist()) == {0}


def test_without_a_test_folder_a_fifth_of_each_class_is_held_out(photos: Path) -> None:
    (photos / "test").rename(photos / "elsewhere")
    train, held_out = load_dataset(config(photos))
    assert [int((held_out.class_labels == c).sum()) for c in range(3)] == [2, 2, 2]
    assert len(train) == 24
    assert data_facts(config(photos)).counts == {0: 8, 1: 8, 2: 8}


def test_images_are_decoded_once_and_again_when_a_file_changes(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = load_dataset(config(photos))
    with monkeypatch.context() as patch:
        patch.setattr(pixels, "decode", None)
        again, _ = load_dataset(config(photos))
    assert torch.equal(first.images, again.images)
    assert first.sha256 == again.sha256
    write(photos / "train" / "ant" / "1.png", 7, size=(16, 16), mode="L")
    assert not torch.equal(load_dataset(config(photos))[0].images, first.images)


def test_streamed_and_in_memory_sets_give_bit_identical_batches(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, _ = load_dataset(config(photos, image_size=8))
    monkeypatch.setattr(pixels, "MAX_IN_MEMORY", 0)
    monkeypatch.setattr(FolderPixels, "read", lambda _: pytest.fail("read whole"))
    streamed, _ = load_dataset(config(photos, image_size=8))
    assert isinstance(streamed.images, FolderPixels)
    assert len(streamed.sha256) == 64
    for classes in ((0, 1, 2), (0, 2)):
        one, other = (
            Batches(s.of_classes(classes), ToyModel(), seed=3, phase="x", batch_size=7, horizontal_flip=True)
            for s in (held, streamed)
        )
        assert all(torch.equal(one(u).x_0, other(u).x_0) for u in range(6))
    assert torch.equal(torch.cat(list(streamed.batches(4))), held.images)


def test_other_shapes_are_resized_on_the_shorter_side_and_cut_in_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 200  # the middle third
    (tmp_path / "train" / "ant").mkdir(parents=True)
    Image.fromarray(wide).save(tmp_path / "train" / "ant" / "0.png")
    write(tmp_path / "train" / "bee" / "0.png", 1, size=(8, 8))
    with pytest.raises(InputError, match=r"24 x 8 pixels; set data\.image_size"):
        load_dataset(config(tmp_path))
    images = pixels.FolderPixels(list_folder(tmp_path).train.images, pixels.Reading((3, 8, 8)))[:]
    assert images[0].unique().tolist() == [200]


def test_grey_folders_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    for name in CLASSES:
        write(tmp_path / "train" / name / "0.png", 1, mode="L")
    assert data_facts(config(tmp_path)).shape == (1, 16, 16)
    write(tmp_path / "train" / "cow" / "0.png", 1)
    assert data_facts(config(tmp_path)).shape == (3, 16, 16)


def test_what_is_wrong_with_a_folder_is_said_by_name(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder .*nothing.*must hold train/CLASS"):
        load_dataset(config(tmp_path / "nothing"))
    write(photos / "train" / "ant" / "5.jpg", 1, size=(20, 20))
    with pytest.raises(InputError, match=r"ant/5\.jpg has 20 x 20 pixels, .*ant/0\.jpg has 16 x 16; set data\.im"):
        load_dataset(config(photos))
    (photos / "train" / "ant" / "5.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"ant/5\.jpg cannot be read"):
        load_dataset(config(photos))
    (photos / "train" / "ant" / "5.jpg").unlink()
    (photos / "test" / "cat").mkdir()
    with pytest.raises(InputError, match=r"test/cat is named after no class of .*known are|did you mean"):
        load_dataset(config(photos))
    (photos / "test" / "cat").rmdir()
    (photos / "train" / "dog").mkdir()
    with pytest.raises(InputError, match=r"train/dog holds no images"):
        load_dataset(config(photos))
    (photos / "train" / "dog" / "0.png").symlink_to(photos / "nowhere.png")
    with pytest.raises(InputError, match=r"train/dog holds no images .*dog/0\.png is empty or no file"):
        load_dataset(config(photos))
    shutil.rmtree(photos / "train" / "dog")
    for file in (photos / "test").rglob("*.png"):
        file.unlink()
    with pytest.raises(InputError, match=r"test holds no images; .*remove it to hold out a fifth"):
        data_facts(config(photos))


def test_no_damage_to_a_file_ends_in_anything_but_a_sentence(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg"):
        path = tmp_path / f"0.{suffix}"
        write(path, 1)
        whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(300):
            damaged = whole[: rng.integers(1, len(whole) + 1)].copy()
            damaged[rng.integers(0, min(len(damaged), 60), 2)] = rng.integers(0, 256, 2)
            path.write_bytes(damaged.tobytes())
            with contextlib.suppress(InputError):
                assert pixels.decode(path, (3, 16, 16)).shape == (3, 16, 16)


def test_grey_levels_of_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(levels * 257).save(tmp_path / "0.png")
    assert np.array_equal(pixels.decode(tmp_path / "0.png", (1, 16, 16))[0].numpy(), levels)
    assert pixels.decode(tmp_path / "0.png", (3, 16, 16)).shape == (3, 16, 16)


def test_classes_too_small_to_hold_any_out_leave_the_judge_unmeasured(tmp_path: Path) -> None:
    for name in CLASSES:
        for i in range(2):
            write(tmp_path / "train" / name / f"{i}.png", i)
    train, held_out = load_dataset(config(tmp_path))
    assert (len(train), len(held_out)) == (6, 0)
    recipe = ClassifierRecipe.model_validate(RECIPES["tiny_classifier.yaml"])
    judge = new_classifier(recipe.classifier, train.id2label, 3, num_steps=1, with_none=False)
    assert with_accuracy(judge, held_out).info.accuracy == {}


def test_a_file_changed_in_place_under_its_old_size_and_date_is_noticed(photos: Path) -> None:
    first, _ = load_dataset(config(photos))
    path = photos / "train" / "bee" / "1.png"
    stamps, content = path.stat(), bytearray(path.read_bytes())
    other = bytearray((photos / "train" / "bee" / "3.png").read_bytes())
    content, other = (part.ljust(max(len(content), len(other)), b"\0") for part in (content, other))
    path.write_bytes(content)  # bytes after the end of a PNG mean nothing
    os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    padded, _ = load_dataset(config(photos))
    assert torch.equal(padded.images, first.images)
    path.write_bytes(other)
    os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    changed, _ = load_dataset(config(photos))
    at = [entry.path for entry in list_folder(photos).train.images].index(str(path))
    assert not torch.equal(changed.images[at], first.images[at])
    assert (changed.images != first.images).flatten(1).any(1).sum() == 1


def test_files_are_read_once_and_those_that_changed_once_more(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(contents, "file_sha256", lambda path: read.append(path) or file_sha256(path))
    entries = list_folder(photos).train.images
    first = contents.content_hashes(entries)
    assert sorted(map(str, read)) == sorted(entry.path for entry in entries)
    assert (contents.content_hashes(entries), len(read)) == (first, len(entries))
    write(photos / "train" / "bee" / "1.png", 99)
    changed = contents.content_hashes(list_folder(photos).train.images)
    assert read[len(entries) :] == [photos / "train" / "bee" / "1.png"]
    assert sum(a != b for a, b in zip(first, changed, strict=True)) == 1


def test_a_moved_folder_keeps_its_hashes_and_is_not_decoded_again(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [(part.sha256, part.images) for part in load_dataset(config(photos))]
    moved = photos.rename(tmp_path_factory.mktemp("elsewhere") / "photos")
    monkeypatch.setattr(pixels, "decode", None)
    for part, (sha256, images) in zip(load_dataset(config(moved)), before, strict=True):
        assert part.sha256 == sha256
        assert torch.equal(part.images, images)
    monkeypatch.setattr(pixels, "MAX_IN_MEMORY", 0)
    streamed = load_dataset(config(moved))[0].sha256
    assert streamed == load_dataset(config(moved.rename(moved.with_name("again"))))[0].sha256


def test_processes_that_need_the_same_images_decode_them_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make() -> dict[str, torch.Tensor]:
        made.append(None)
        time.sleep(0.05)  # the others arrive meanwhile
        return {"images": torch.arange(3)}

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: get_or_make_locked(tmp_path / "x.safetensors", make)["images"], range(4)))
    assert len(made) == 1
    assert all(torch.equal(result, torch.arange(3)) for result in results)
    (tmp_path / "x.safetensors").write_bytes(b"damaged")
    assert torch.equal(get_or_make_locked(tmp_path / "x.safetensors", make)["images"], torch.arange(3))
    assert len(made) == 2


def test_a_thousand_classes_are_listed_by_the_heads_of_their_files_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "0.png", 1)
    for i in range(1000):
        (tmp_path / "train" / f"n{i:04d}").mkdir(parents=True)
        for k in range(3):
            os.link(tmp_path / "0.png", tmp_path / "train" / f"n{i:04d}" / f"{k}.png")
    heads: list[str] = []
    monkeypatch.setattr(pixels, "_looks", lambda paths: (heads.extend(paths), [[False, False]] * len(paths))[1])
    for name in ("decoded", "decoded_bytes"):
        monkeypatch.setattr(pixels, name, lambda *_: pytest.fail("decoded"))
    for _ in range(2):
        facts = data_facts(config(tmp_path))
        assert (len(facts.id2label), len(heads)) == (1000, 3000)
    monkeypatch.setattr(pixels, "MAX_IN_MEMORY", 0)
    train, held_out = load_dataset(config(tmp_path))
    assert (len(train), len(held_out)) == (2000, 1000)
    data_facts(config(tmp_path, channels=3))
    assert len(heads) == 3000


def test_cifar10_is_read_from_its_batches_and_kept_as_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = write_cifar(tmp_path, monkeypatch)
    source = DataConfig(name="cifar10", path=str(tmp_path))
    train, test = load_dataset(source)
    assert list(train.id2label.values()) == list(NAMES)
    assert (tuple(train.images.shape), tuple(test.images.shape)) == ((20, 3, 32, 32), (4, 3, 32, 32))
    assert np.array_equal(train.images[5].flatten().numpy(), pixels[1, 1])
    assert train.class_labels.tolist() == [0, 3, 3, 9] * 5
    for file in (tmp_path / CIFAR10.base_folder).iterdir():
        file.unlink()
    assert torch.equal(load_dataset(source)[0].images, train.images)
    small, _ = load_dataset(source.model_copy(update={"image_size": 16}))
    assert tuple(small.images.shape) == (20, 3, 16, 16)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_code_in_a_batch_of_cifar10_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch, evil=Evil(tmp_path / "ran"))
    with pytest.raises(InputError, match=r"data_batch_1 is no batch of CIFAR-10 \(it holds "):
        load_dataset(DataConfig(name="cifar10", path=str(tmp_path)))
    assert not (tmp_path / "ran").exists()


def test_a_changed_batch_of_cifar10_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch)
    entries = [[name, "0" * 32] for name, _ in CIFAR10.train_list]
    monkeypatch.setattr(CIFAR10, "train_list", entries)
    with pytest.raises(InputError, match="is not the published file"):
        load_dataset(DataConfig(name="cifar10", path=str(tmp_path)))


def test_without_a_network_cifar10_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", "1" * 32]])
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", unreachable)
    with pytest.raises(InputError, match=rf"Put {CIFAR10.filename} there \(data.path names the folder\)"):
        load_dataset(DataConfig(name="cifar10", path=str(tmp_path)))


@pytest.mark.parametrize("family", [pytest.param("cifar10", marks=pytest.mark.slow), "digits", "imagenet"])
def test_every_recipe_passes_its_dry_run_without_opening_images(
    dualoptim: Run, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    from dualoptim_diffusion.core.recipes import recipe_folder

    for module in ("forecast", "dry_run"):
        monkeypatch.setattr(f"dualoptim_diffusion.runs.{module}.measured", lambda *_: 0.01)  # seconds an image
    if family == "cifar10":
        monkeypatch.setattr("dualoptim_diffusion.data.cifar10.load", lambda _: pytest.fail("opened"))
    recipes = sorted(path.stem for path in recipe_folder().glob(f"{family}_*.yaml"))
    assert len(recipes) >= 6
    for name in recipes:
        verbs = {"pretrain": "pretrain", "classifier": "train-classifier", "features": "train-classifier"}
        verb = verbs.get(name.rpartition("_")[2], "forget")
        classes = ["--class", "3"] if verb == "forget" else []
        if name == "imagenet_classifier":
            continue  # its weights are downloaded, and nothing is trained
        outcome = dualoptim(verb, name, *classes, "--dry-run", "--json")
        assert outcome.code == 0, outcome.err
        plan = yaml.safe_load(outcome.out)
        assert plan["bytes_without_activations"]["total"] >= 3 * 4 * plan["parameters"]
        assert all(seconds > 0 for seconds in plan["estimated_seconds"].values())
        assert verb != "forget" or plan["bytes_of_activations"] > 0
        if verb == "forget" and family == "cifar10":
            assert (plan["forget_set"], plan["retain_set"], plan["parameters"]) == (5000, 45_000, 38_632_323)


def test_a_folder_of_images_goes_all_the_way_and_28_pixels_fit_three_levels(
    dualoptim: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUALOPTIM_CACHE", str(tmp_path / "cache"))
    words = {"name": "image_folder", "path": str(photos), "image_size": 28}
    contents = {name: yaml.safe_load(yaml.safe_dump(content)) for name, content in RECIPES.items()}
    for name, content in contents.items():
        content["data"] |= words
        content["data"]["batch_size"] = 4
        if name == "tiny_pretrain.yaml":
            content["model"]["multipliers"] = [1, 1, 1]
            content["training"]["num_steps"] = 2
        (tmp_path / name).write_text(yaml.safe_dump(content))
    recipe = tmp_path / "tiny.yaml"
    outcome = dualoptim("forget", recipe, "method.num_steps=2", "--class", "bee", "--out", tmp_path / "run", "--json")
    assert outcome.code == 0, outcome.err
    assert "10 images of bee, retain set: 20 images" in outcome.err
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["data"]["path"] == str(photos.resolve())
    again = dualoptim("forget", recipe, "data.image_size=30", "--class", "bee", "--out", tmp_path / "other")
    wrong = dualoptim("pretrain", tmp_path / "tiny_pretrain.yaml", "data.image_size=30")
    assert again.code == wrong.code == 1
    assert "nearest sizes that can are 28 and 32. data.image_size resizes the images." in " ".join(wrong.err.split())


def test_a_path_in_a_recipe_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config(Path("photos")).path == str(tmp_path.resolve() / "photos")


def test_the_digits_are_the_same_as_ever() -> None:
    train, held_out = load_dataset(DataConfig(name="digits"))
    assert (train.sha256[:16], held_out.sha256[:16]) == ("c242ef3b575a3448", "c6bbc3c27a331924")


def test_an_image_folder_needs_its_path() -> None:
    with pytest.raises(ValueError, match="with name image_folder"):
        DataConfig(name="image_folder")


def test_a_set_keeps_the_order_asked_for() -> None:
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
    chosen = ImageSet(images, torch.tensor([0, 1, 0, 1]), {0: "a", 1: "b"}).at(torch.tensor([3, 0]))
    assert chosen.images.flatten().tolist() == [3, 0]
    assert chosen.class_labels.tolist() == [1, 0]


def imagenet_folders(root: Path) -> Path:
    """One tiny image for each of ImageNet's classes."""
    from dualoptim_diffusion.data import imagenet

    for wnid, i in imagenet.wnids().items():
        (root / "train" / wnid).mkdir(parents=True)
        Image.new("RGB", (4, 4), (i % 256, i // 256, 0)).save(root / "train" / wnid / "a.JPEG")
    return root


def test_imagenet_goes_by_name_synonym_id_and_wnid_and_an_ambiguous_name_says_so() -> None:
    from dualoptim_diffusion.core.classes import resolve_class

    facts = data_facts(DataConfig(name="imagenet"))
    assert facts.missing is not None
    assert facts.shape == (3, 256, 256)
    for text in ("golden retriever", "207", "n02099601", "Golden Retriever"):
        assert resolve_class(text, facts.id2label, facts.aliases) == 207
    assert resolve_class("Tinca tinca", facts.id2label, facts.aliases) == 0
    with pytest.raises(InputError, match=r"'crane' is ambiguous: 134 \(crane\), 517 \(crane\); give the id"):
        resolve_class("crane", facts.id2label, facts.aliases)


def test_imagenet_is_read_from_folders_by_wnid_and_a_missing_class_is_named(tmp_path: Path) -> None:
    config = DataConfig(name="imagenet", path=str(imagenet_folders(tmp_path)), image_size=8)
    facts = data_facts(config)
    assert facts.missing is None
    assert facts.id2label[207] == "golden retriever"
    assert facts.count([207]) == 1
    (tmp_path / "train" / "n02099601" / "a.JPEG").unlink()
    (tmp_path / "train" / "n02099601").rmdir()
    with pytest.raises(InputError, match=r"n02099601 is missing \(1 such\)"):
        data_facts(config)
    with pytest.raises(InputError, match=r"ImageNet is not here: data\.path is not given"):
        load_dataset(DataConfig(name="imagenet"))


def test_a_hub_id_that_cannot_be_had_is_one_sentence_and_a_revision_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from diffusers import DiffusionPipeline

    from dualoptim_diffusion.models.loading import load_model

    asked = []

    def unreachable(name: str, revision: str | None) -> None:
        asked.append((name, revision))
        raise OSError("no network")

    (tmp_path / "model_index.json").write_text('{"_class_name": "DiTPipeline"}')
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: tmp_path / "model_index.json")
    monkeypatch.setattr(DiffusionPipeline, "download", unreachable)
    for source in ("facebook/DiT-XL-2-256", "facebook/DiT-XL-2-256@eab87f77abd5"):
        with pytest.raises(InputError, match="is no folder here and cannot be downloaded"):
            load_model(Path(source))
    assert asked == [("facebook/DiT-XL-2-256", None), ("facebook/DiT-XL-2-256", "eab87f77abd5")]


def test_the_activations_of_a_forward_pass_are_counted_without_making_any() -> None:
    from dualoptim_diffusion.models import ConditionalDiT, DiTModule
    from dualoptim_diffusion.runs.forecast import bytes_of_activations

    model = ConditionalDiT(DiTModule(8, 1, 2, 10, 2, 2, 8, 2), {i: str(i) for i in range(10)})
    one, four = bytes_of_activations(model, 1), bytes_of_activations(model, 4)
    assert 0 < one < four <= 4 * one
    model.checkpoint_gradients()
    assert bytes_of_activations(model, 4) < four / 2
    assert next(model.network.parameters()).device.type == "cpu"


def test_damaged_images_are_skipped_on_request_counted_and_named(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in (photos / "train").iterdir())
    (photos / "train" / names[0] / "3.png").write_bytes(b"no picture")
    whole = (photos / "train" / names[1] / "4.jpg").read_bytes()
    (photos / "train" / names[1] / "4.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"2 of 30 images cannot be used"):
        load_dataset(config(photos))
    train, test = load_dataset(config(photos, skip_damaged=True))
    assert (len(train), len(test)) == (28, 6)
    assert torch.bincount(train.class_labels).tolist() == [9, 9, 10]
    said = capsys.readouterr().err
    assert re.search(r"Skipped 2 of 30 images that cannot be read: \S+ant/3\.png, \S+bee/4\.jpg", said)
    assert "28 grey images" in said or "34 colour images of 3 classes" in said
    assert "; 2 files skipped" in said
    assert data_facts(config(photos, skip_damaged=True)).counts == data_facts(config(photos)).counts | {0: 9, 1: 9}
    for path in (photos / "train" / names[2]).iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=f"No image of '{names[2]}' can be read"):
        load_dataset(config(photos, skip_damaged=True))


def test_skipping_damaged_images_where_no_files_are_read_is_refused() -> None:
    with pytest.raises(ValueError, match="image_folder or imagenet"):
        DataConfig(name="digits", skip_damaged=True)
