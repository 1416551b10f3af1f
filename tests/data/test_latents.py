"""Latents encoded once, replay of a model's own latents, and batches in parts: equal to the plain way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from dualoptim_diffusion.core.config import DenoiserDataConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import Batches, ImageSet, latents, load_dataset, split
from dualoptim_diffusion.data.encoding import encode_all, latent_cache, training_images
from dualoptim_diffusion.data.latents import CachedMoments
from dualoptim_diffusion.data.pixels import decode
from dualoptim_diffusion.data.replay import open_replay
from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT, UNetModule
from tests.helpers.commands import Outcome, launch
from tests.helpers.dit import CHANNELS, CLASSES, SIDE, original_weights, random_dit, tiny_vae
from tests.helpers.numerics import rounding, steps_of, widen
from tests.helpers.recipes import RECIPES

Run = Callable[..., Outcome]
NAMES = [f"name {i}" for i in range(CLASSES)]
PER_CLASS = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes of four training and one test image, 16 x 16."""
    root = tmp_path_factory.mktemp("photos")
    for c, name in enumerate(NAMES):
        for i in range(PER_CLASS + 1):
            path = root / ("train" if i < PER_CLASS else "test") / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(10 * c + i).integers(0, 256, (2 * SIDE, 2 * SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return root


def config(photos: Path, latents: str = "keep", flip: bool = True) -> DenoiserDataConfig:
    return DenoiserDataConfig(name="image_folder", path=str(photos), horizontal_flip=flip, latents=latents)


def latent_model(vae: AutoencoderKL | None = None) -> ConditionalDiT:
    return ConditionalDiT(random_dit(), dict(enumerate(NAMES)), vae=vae or tiny_vae())


def wide(model: ConditionalDiT) -> ConditionalDiT:
    """The model with an autoencoder that computes in float64."""
    assert model.vae is not None
    widen(model.vae.double().encoder)
    return model


KEPT = rounding(1)  # of float64 moments: they are kept in float32
DRAWN = rounding(4)  # of latents made from those: exponential, noise, mean, scale


def batches(dataset: ImageSet, model: ConditionalDiT, flip: bool = True) -> Batches:
    return Batches(dataset, model, seed=0, phase="retain", batch_size=6, horizontal_flip=flip)


@pytest.mark.numerical
def test_a_run_on_kept_latents_sees_what_encoding_each_step_gives(photos: Path) -> None:
    model, accelerator = wide(latent_model()), Accelerator(cpu=True)
    dataset = load_dataset(config(photos))[0]
    plain, kept = (
        batches(split(training_images(dataset, config(photos, latents), model, accelerator), [2])[1], model)
        for latents in ("each_step", "keep")
    )
    kept.prepare(5)
    mirrored = 0
    for update in range(5):
        a, b = plain(update), kept(update)
        assert (a.x_0 - b.x_0).abs().max() <= DRAWN * a.x_0.abs().max()
        for part in ("timesteps", "noise", "class_labels", "dropped_labels"):
            assert torch.equal(getattr(a, part), getattr(b, part))
        mirrored += int(plain._examples(update)[1].sum())
    assert 0 < mirrored < 30


def test_only_what_a_run_draws_is_encoded_and_nothing_twice(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "ENCODER_BATCH", 1)
    model, accelerator = latent_model(), Accelerator(cpu=True)
    encoded: list[int] = []
    plain = model.moments
    model.moments = lambda images: encoded.append(len(images)) or plain(images)  # type: ignore[method-assign,func-returns-value]
    dataset = load_dataset(config(photos))[0]
    images = training_images(dataset, config(photos, str(tmp_path / "kept")), model, accelerator)
    source = batches(images, model)
    source.prepare(2)
    drawn = {(int(i), bool(f)) for update in range(2) for i, f in zip(*source._examples(update), strict=True)}
    assert sum(encoded) == len(drawn)
    again = batches(training_images(dataset, config(photos, str(tmp_path / "kept")), model, accelerator), model)
    again.prepare(2)
    assert sum(encoded) == len(drawn)
    with pytest.raises(KeyError, match="never encoded"):
        _ = [again(update) for update in range(2, 5)]


@pytest.mark.numerical
def test_moments_are_those_of_the_image_and_of_its_mirror_image(photos: Path, tmp_path: Path) -> None:
    model, accelerator = wide(latent_model()), Accelerator(cpu=True)
    dataset = load_dataset(config(photos))[0]
    kept = config(photos, str(tmp_path / "kept"))
    assert encode_all(dataset, kept, model, accelerator)["moments"] == 2 * len(dataset)
    images = training_images(dataset, kept, model, accelerator).at(torch.tensor([7, 3])).images
    assert isinstance(images, CachedMoments)
    pixels = dataset.images[torch.tensor([7, 3])]
    for flip, expected in ((False, pixels), (True, pixels.flip(-1))):
        found = images.moments(torch.tensor([0, 1]), torch.tensor([flip, flip]))
        torch.testing.assert_close(found.double(), model.moments(expected), rtol=KEPT, atol=1e-12)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_an_interrupted_encoding_goes_on_and_ends_with_the_same_bytes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "PER_SHARD", 7)
    monkeypatch.setattr(latents, "ENCODER_BATCH", 3)
    model, accelerator = latent_model(), Accelerator(cpu=True)
    dataset, plain = load_dataset(config(photos))[0], model.moments
    encode_all(dataset, config(photos, str(tmp_path / "whole")), model, accelerator)
    calls = 0

    def failing(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return plain(images)

    model.moments = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        encode_all(dataset, config(photos, str(tmp_path / "parts")), model, accelerator)
    model.moments = plain  # type: ignore[method-assign]
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) == 1
    encode_all(dataset, config(photos, str(tmp_path / "parts")), model, accelerator)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 7  # six shards and the manifest


@pytest.mark.parametrize("harm", ["a flipped bit", "half a shard", "no shard", "half a manifest", "another's"])
def test_damaged_latents_of_the_cache_are_encoded_anew(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DUALOPTIM_CACHE", str(tmp_path))
    monkeypatch.setattr(latents, "PER_SHARD", 7)
    model, accelerator = latent_model(), Accelerator(cpu=True)
    dataset = load_dataset(config(photos))[0]
    folder = Path(encode_all(dataset, config(photos), model, accelerator)["folder"])
    before = contents(folder)
    shard, manifest = min(folder.glob("*.safetensors")), folder / "manifest.json"
    whole = bytearray(shard.read_bytes())
    whole[-5] ^= 1
    if harm == "no shard":
        shard.unlink()
    else:
        shard.write_bytes({"a flipped bit": bytes(whole), "half a shard": whole[:99]}.get(harm, shard.read_bytes()))
    if harm == "half a manifest":
        manifest.write_bytes(manifest.read_bytes()[:50])
    if harm == "another's":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"made_from": {"images_sha256": "x"}}))
    encode_all(dataset, config(photos), model, accelerator)
    after = contents(folder)
    assert json.loads(after.pop("manifest.json")) == json.loads(before.pop("manifest.json"))
    assert after == before
    assert len([line for line in capfd.readouterr().err.splitlines() if "is damaged" in line]) == 1


def test_latents_of_another_autoencoder_crop_or_data_set_are_refused(photos: Path, tmp_path: Path) -> None:
    model, accelerator, kept = latent_model(), Accelerator(cpu=True), config(photos, str(tmp_path / "kept"))
    dataset = load_dataset(kept)[0]
    encode_all(dataset, kept, model, accelerator)
    other = tiny_vae()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(InputError, match=r"made by another autoencoder .* name another folder as data.latents"):
        encode_all(dataset, kept, latent_model(other), accelerator)
    smaller = load_dataset(kept.model_copy(update={"image_size": 8}))[0]
    with pytest.raises(InputError, match="images of another size or crop"):
        encode_all(smaller, kept, model, accelerator)
    with pytest.raises(InputError, match="from other images"):
        encode_all(dataset.at(torch.arange(3)), kept, model, accelerator)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x.txt").write_text("x")
    with pytest.raises(InputError, match="holds no latents"):
        encode_all(dataset, config(photos, str(tmp_path / "notes")), model, accelerator)
    next((tmp_path / "kept").glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match="lacks the shard"):
        encode_all(dataset, kept, model, accelerator)


def test_images_are_halved_by_boxes_then_resized_and_cut_as_published(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = Image.fromarray(pixels)
    for _ in range(2):  # 90 x 70 -> 45 x 35 -> 22 x 17
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    picture = picture.resize((round(22 * 16 / 17), 16), Image.Resampling.BICUBIC)  # 21 x 16
    left = (21 - 16) // 2
    expected = torch.from_numpy(np.array(picture)[:, left : left + 16]).permute(2, 0, 1)
    assert torch.equal(decode(tmp_path / "a.png", (3, 16, 16)), expected)


LATENT_RECIPES: dict[str, Any] = {
    "pretrain.yaml": {
        "run": {"device": "cpu"},
        "data": {"name": "image_folder", "path": "PHOTOS", "batch_size": 4, "horizontal_flip": True},
        "model": {"family": "dit", "vae": "VAE", "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8},
        "training": {"num_steps": 3, "lr": 1e-3},
    },
    "judge.yaml": {
        "run": {"device": "cpu"},
        "data": {"name": "image_folder", "path": "PHOTOS", "batch_size": 8},
        "classifier": {"name": "test_resnet", "image_size": 32},
        "training": {"num_steps": 2, "lr": 1e-3},
    },
}


@pytest.fixture(scope="module")
def latent_recipes(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipes of a latent DiT on the photos, and its autoencoder."""
    folder = tmp_path_factory.mktemp("latent")
    tiny_vae().save_pretrained(folder / "vae")
    tiny = RECIPES["tiny.yaml"]
    recipes = LATENT_RECIPES | {
        "latent.yaml": tiny
        | {
            "data": {"name": "image_folder", "path": "PHOTOS", "batch_size": 4, "horizontal_flip": True},
            "model": {"family": "dit", "pretrain": "pretrain.yaml"},
            "method": tiny["method"]
            | {"num_steps": 3, "mask": tiny["method"]["mask"] | {"num_batches": 1, "batch_size": 4}},
            "evaluation": tiny["evaluation"] | {"classifier": "judge.yaml"},
        }
    }
    for name, content in recipes.items():
        text = yaml.safe_dump(content).replace("PHOTOS", str(photos)).replace("VAE", str(folder / "vae"))
        (folder / name).write_text(text)
    return folder


def test_a_latent_model_is_pretrained_forgets_and_then_forgets_from_what_it_drew_itself(
    latent_recipes: Path, dualoptim: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = latent_recipes / "latent.yaml"
    outcome = dualoptim("pretrain", latent_recipes / "pretrain.yaml", "--out", tmp_path / "base")
    assert outcome.code == 0, outcome.err
    outcome = dualoptim("encode", recipe, "data.latents=" + str(tmp_path / "kept"), "--json")
    assert json.loads(outcome.out)["moments"] == 2 * CLASSES * PER_CLASS
    outcome = dualoptim("forget", recipe, "--class", "name 2", "--out", tmp_path / "run", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["seconds"]["encoding images"] >= 0
    drawn = tmp_path / "drawn"
    command = ["sample", tmp_path / "base", "--latents", "--seeds", "0-3", "--steps", "2", "--out", drawn]
    assert dualoptim(*command).code == 0
    with safe_open(next(drawn.glob("class0002*")), framework="pt") as stored:
        latents = stored.get_tensor("latents")
        assert latents.shape == (4, CHANNELS, SIDE, SIDE)
        decoded = ConditionalDiT.load(tmp_path / "base").decode(latents)
        assert (decoded.int() - stored.get_tensor("images").int()).abs().max() <= 1
    monkeypatch.setattr(AutoencoderKL, "encode", lambda *_: pytest.fail("encoded an image"))
    options = [recipe, "--class", "name 2", f"model.path={tmp_path / 'base'}"]
    replay = ["data.name=replay", f"data.path={drawn}"]
    outcome = dualoptim("forget", *options, *replay, "--out", tmp_path / "replayed", "--json")
    assert outcome.code == 0, outcome.err
    results = json.loads(outcome.out)
    assert results["data"] == "replay"
    assert results["unlearned"]["frechet"]["n_reference"] == 4 * (CLASSES - 1)
    for report in ("report.md", "report.html"):
        text = (tmp_path / "replayed" / report).read_text()
        assert "Replay: no real images were at hand" in text
        assert "Replay" not in (tmp_path / "run" / report).read_text()
    outcome = dualoptim("forget", *options, *replay, "data.image_size=32", "--out", tmp_path / "x")
    assert outcome.code == 1
    assert "data.image_size is 32, but the images in" in outcome.err
    outcome = dualoptim("forget", *options, "data.name=replay", f"data.path={tmp_path}", "--out", tmp_path / "x")
    assert outcome.code == 1
    assert "holds no images that `dualoptim sample" in outcome.err


def test_a_pixel_model_has_nothing_to_encode(tiny: str, dualoptim: Run) -> None:
    outcome = dualoptim("encode", tiny)
    assert outcome.code == 1
    assert "has no autoencoder, so there is nothing to encode" in outcome.err


def test_an_original_dit_is_imported_with_its_autoencoder(tmp_path: Path, dualoptim: Run) -> None:
    torch.save(original_weights(), tmp_path / "dit.pt")
    tiny_vae().save_pretrained(tmp_path / "vae")
    command = ["import", tmp_path / "dit.pt", "--num-heads", 2, "--class-names", ",".join(NAMES)]
    assert dualoptim(*command, "--vae", tmp_path / "vae", "--out", tmp_path / "model").code == 0
    model = ConditionalDiT.load(tmp_path / "model")
    assert model.image_shape == (3, 2 * SIDE, 2 * SIDE)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.vae.state_dict().values(), tiny_vae().state_dict().values(), strict=True)
    )
    outcome = dualoptim(*command, "--vae", tmp_path / "nothing", "--out", tmp_path / "other")
    assert outcome.code == 1
    assert "is no folder of an AutoencoderKL here" in outcome.err
    wide = AutoencoderKL(block_out_channels=(8,), latent_channels=3, norm_num_groups=4)
    wide.save_pretrained(tmp_path / "wide")
    outcome = dualoptim(*command, "--vae", tmp_path / "wide", "--out", tmp_path / "other")
    assert "have 3 channels, the DiT takes 4" in outcome.err


@pytest.mark.numerical
@pytest.mark.parametrize("family", ["dit", "unet"])
def test_a_batch_in_parts_has_the_same_gradient_of_a_loss_over_all_of_it(family: str) -> None:
    generator = torch.Generator().manual_seed(4)
    shape = (CHANNELS, SIDE, SIDE)
    x_0, noise = torch.randn(2, 7, *shape, generator=generator, dtype=torch.float64)
    timesteps, labels = torch.arange(7) * 100, torch.arange(7) % CLASSES
    gradients, kept = [], []
    for size in (None, 2):
        torch.manual_seed(0)
        network = random_dit() if family == "dit" else UNetModule(SIDE, CHANNELS, CLASSES, 16, (1, 1), norm_groups=4)
        if family != "dit":
            network.eval()  # dropout draws other masks for other shapes
        kind = ConditionalDiT if family == "dit" else ConditionalDDPM
        model = kind(network.double(), dict(enumerate(NAMES)))
        if size:
            model.limit_batches(size)
        model.prepare(Accelerator(cpu=True))
        saved = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            losses = model.loss(x_0, timesteps, noise, labels)
            loss = (losses / losses.detach().sqrt().mean()).mean()  # couples the samples
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        kept.append(saved)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)
    assert kept[1] < kept[0] / 4  # what is left belongs to the loss, of a few numbers a pixel


@pytest.mark.slow
def test_two_processes_encode_what_one_does(latent_recipes: Path, dualoptim: Run, tmp_path: Path) -> None:
    recipe = latent_recipes / "latent.yaml"
    for name, run in (("one", lambda *a: dualoptim(*a).code == 0), ("two", launch)):
        assert run("encode", recipe, f"data.latents={tmp_path / name}", "--json")
    assert contents(tmp_path / "one").keys() == contents(tmp_path / "two").keys()
    steps = steps_of(tiny_vae().encoder.parameters())
    for path in (tmp_path / "one").glob("*.safetensors"):
        a, b = load_file(path), load_file(tmp_path / "two" / path.name)
        assert torch.equal(a["keys"], b["keys"])
        bound = rounding(steps, float(a["moments"].abs().max()))
        torch.testing.assert_close(a["moments"], b["moments"], rtol=0, atol=bound)


def test_a_cache_that_another_one_has_filled_meanwhile_encodes_nothing_again(photos: Path, tmp_path: Path) -> None:
    model, accelerator, kept = latent_model(), Accelerator(cpu=True), config(photos, str(tmp_path / "kept"), flip=False)
    dataset = load_dataset(kept)[0]
    early = training_images(dataset, kept, model, accelerator)  # opened while the folder is empty
    encode_all(dataset, kept, model, accelerator)
    model.moments = lambda _: pytest.fail("encoded again")  # type: ignore[method-assign]
    source = batches(early, model, flip=False)
    source.prepare(0)
    source.prepare(3)
    assert source(2).x_0.shape == (6, CHANNELS, SIDE, SIDE)


def test_moments_do_not_depend_on_what_else_was_missing(photos: Path, tmp_path: Path) -> None:
    model, accelerator = latent_model(), Accelerator(cpu=True)
    dataset = load_dataset(config(photos))[0]
    keys = torch.tensor([3, 8, 31])
    found = []
    for name, first in (("few", keys), ("one by one", keys[1:2]), ("all", torch.arange(2 * len(dataset)))):
        cache = latent_cache(dataset, str(tmp_path / name), model, accelerator)
        cache.add(first)
        cache.add(keys)
        found.append(cache[keys])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("words", [["method.name=finetune"], ["method.retain_steps=0"], ["method.name=retrain"]])
def test_methods_without_one_of_the_phases_run_on_latents(
    latent_recipes: Path, dualoptim: Run, tmp_path: Path, words: list[str]
) -> None:
    recipe = latent_recipes / "latent.yaml"
    outcome = dualoptim("forget", recipe, *words, "--class", "name 2", "--out", tmp_path / "run", "--json")
    assert outcome.code == 0, outcome.err


def test_models_that_differ_in_the_autoencoder_alone_are_two(tmp_path: Path, dualoptim: Run) -> None:
    other = tiny_vae()
    with torch.no_grad():
        other.post_quant_conv.weight.mul_(2)
    for name, vae in (("one", tiny_vae()), ("two", other)):
        latent_model(vae).save(tmp_path / name)
    command = ["--seeds", "0-1", "--steps", "2", "--class", "name 2", "--out", tmp_path / "drawn"]
    assert dualoptim("sample", tmp_path / "one", *command).code == 0
    outcome = dualoptim("sample", tmp_path / "two", *command)
    assert outcome.code == 1
    assert "drawn from other weights" in outcome.err


def test_a_seed_drawn_twice_counts_once(tmp_path: Path, dualoptim: Run) -> None:
    latent_model().save(tmp_path / "model")
    for seeds in ("0-1", "0-3"):
        command = ["--latents", "--seeds", seeds, "--steps", "2", "--class", "name 2", "--class", "name 3"]
        assert dualoptim("sample", tmp_path / "model", *command, "--out", tmp_path / "drawn").code == 0
    drawn = open_replay(tmp_path / "drawn")
    assert drawn.labels.tolist() == [2] * 4 + [3] * 4
    images = drawn.rows("images")[:]
    assert len({image.numpy().tobytes() for image in images}) == 8
