"""A catalogue of wrong requests: each ends with one plain sentence that names what is wrong, and changes nothing."""

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from stat import S_ISREG
from string import Template
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from dualoptim_diffusion.core.errors import EXIT_DIVERGED, EXIT_FAILED
from dualoptim_diffusion.files.delta_file import Header, write_delta
from tests.helpers.commands import Outcome, call
from tests.helpers.published import published_state, save
from tests.helpers.recipes import RECIPES

Run = Callable[..., Outcome]
USAGE = 2  # what typer ends with


class Place(NamedTuple):
    """Where a case prepares its files: an empty folder, and finished things to copy from."""

    tmp: Path
    run: Path
    model: Path
    judge: Path


Prepare = Callable[[Place], object]


class Case(NamedTuple):
    """A wrong request.

    Attributes:
        claim: what holds, as the name of the test.
        command: with $tmp, $out, $tiny, $recipes, $run (a finished run), $model and $judge in it.
        parts: what the sentence must contain: the value or file, then what to do.
        prepare: makes files in the empty folder $tmp before.
        code: of the exit.
    """

    claim: str
    command: str
    parts: tuple[str, ...]
    prepare: Prepare | None = None
    code: int = EXIT_FAILED


CASES: list[Case] = []


def case(claim: str, command: str, *parts: str, prepare: Prepare | None = None, code: int = EXIT_FAILED) -> None:
    CASES.append(Case(claim, command, parts, prepare, code))


def text(name: str, content: str | bytes) -> Prepare:
    """Writes a file."""

    def prepare(place: Place) -> None:
        path = place.tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def recipe(name: str = "tiny.yaml", **sections: object) -> Prepare:
    """Writes a tiny recipe, with some sections replaced (None: left out), and the others beside it."""

    def prepare(place: Place) -> None:
        for other, content in RECIPES.items():
            changed = {k: v for k, v in (content | (sections if other == name else {})).items() if v is not None}
            (place.tmp / other).write_text(yaml.safe_dump(changed))

    return prepare


def copied(part: str, *changes: Callable[[Path], object]) -> Prepare:
    """Copies the run, its model or the judge to $tmp/copy, then changes the copy."""

    def prepare(place: Place) -> None:
        source = {"run": place.run, "model": place.model, "judge": place.judge}[part]
        shutil.copytree(source, place.tmp / "copy")
        for change in changes:
            change(place.tmp / "copy")

    return prepare


def edited(name: str, /, **changes: object) -> Callable[[Path], object]:
    """Replaces entries of a JSON file."""
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


def truncated(name: str) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def replaced(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def damaged_choice(content: str) -> Callable[[Path], object]:
    """Of a run that keeps its best weights."""

    def apply(folder: Path) -> None:
        (folder / "best").mkdir()
        (folder / "best" / "selection.json").write_text(content)

    return apply


def removed(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    """Changes the tensors of a file."""

    def apply(folder: Path) -> None:
        stored = load_file(folder / name)
        change(stored)
        save_file(stored, folder / name)

    return apply


def images(
    spoil: Callable[[Path], object] | None = None, names: Sequence[str] = "ab", side: int = 8, mode: str = "L"
) -> Prepare:
    """A folder $tmp/photos with five images of each class, then spoiled."""

    def prepare(place: Place) -> None:
        for name in names:
            for i in range(5):
                picture(place.tmp / "photos" / "train" / name / f"{i}.png", side, mode, seed=i)
        if spoil is not None:
            spoil(place.tmp / "photos")

    return prepare


def picture(path: Path, side: int = 8, mode: str = "L", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path)


def published(change: Callable[[dict[str, torch.Tensor]], object] | None = None, **others: object) -> Prepare:
    """A published checkpoint $tmp/c.pth, changed."""

    def prepare(place: Place) -> None:
        state = published_state()
        if change is not None:
            change(state)
        save(place.tmp / "c.pth", state, **others)  # type: ignore[arg-type]

    return prepare


# fmt: off
FORGET = "forget $tiny --class three --out $out"
PHOTOS = f"{FORGET} data.name=image_folder data.path=$tmp/photos"
OWN = "forget $tmp/tiny.yaml --class three --out $out"  # with a recipe of its own
UNET = "unet/diffusion_pytorch_model.safetensors"

# Usage.
case("an unknown verb is a usage error", "forgett x", "forgett", code=USAGE)
case("forget without a recipe is a usage error", "forget", "RECIPE", code=USAGE)
case("an unknown option is a usage error", "forget $tiny --clas three", "--clas", code=USAGE)
case("a number of steps that is none is a usage error", "forget $tiny --stop-after x", "--stop-after", code=USAGE)
case("stopping after no step is a usage error", "pretrain $tiny --stop-after 0", "--stop-after", code=USAGE)
case("an import without --out is a usage error", "import x.pth", "--out", code=USAGE)
case("an export without --out is a usage error", "export $model", "--out", code=USAGE)
case("an image size of 0 is a usage error", "import x.pth --out $out --image-size 0", "--image-size", code=USAGE)
case("a grid of no columns is a usage error", "grid $run --columns 0 --out $out", "--columns", code=USAGE)
case("a seed given to evaluate as an option is a usage error", "evaluate $run --seed 1", "--seed", code=USAGE)
case("a recipe given to recipes is a usage error", "recipes digits_sfron_dual", "digits_sfron_dual", code=USAGE)
case("a method given to methods is a usage error", "methods sfron", "sfron", code=USAGE)
case("a report of no run is a usage error", "report", "RUN", code=USAGE)

# Classes.
case("an unknown class is named with its neighbours", "forget $tiny --class thre --out $out", "'thre'", "did you mean")
case("an empty class name lists those known", "forget $tiny --class '' --out $out", "''", "known are")
case("a class id that is too large is refused", "forget $tiny --class 10 --out $out", "'10'", "known are")
case("a negative class id is refused", "forget $tiny --class=-1 --out $out", "'-1'", "known are")
case(
    "a class id of thousands of digits is refused", f"forget $tiny --class {'7' * 5000} --out $out", "777", "known are"
)
case("no class at all is refused", "forget $tiny --out $out", "No class", "--class NAME")
case(
    "all classes at once are refused",
    "forget $tiny --out $out " + " ".join(f"--class {i}" for i in range(10)),
    "All 10", "at least one must be retained",
)
case("the two classes of a folder are all of them",
     "forget $tiny --class a --class b --class A --out $out data.name=image_folder data.path=$tmp/photos",
     "All 2", "retained", prepare=images())
case("an unknown class to sample is refused", "sample $run --class zehn --out $out", "'zehn'", "did you mean zero")
case("an unknown class to show is refused", "grid $run --class zehn --out $out", "'zehn'", "did you mean zero")
case(
    "an unknown class for a contact sheet is refused",
    "grid $run --contact-sheet tne --out $out",
    "'tne'",
    "did you mean one",
)
case("two choices of what to show are refused", "grid $run --class 1 --others 2 --out $out", "--others", "one of them")
case("an ambiguous class lists the ids", "sample $tmp/copy --class grey --out $out", "0 (grey), 1 (grey)",
     "give the id", prepare=copied("model", edited("model_index.json", id2label={str(i): "grey" for i in range(10)})))

# Recipes: values.
case("a rate that is a word is refused", f"{FORGET} method.forget_lr=fast", "method.forget_lr is 'fast'", "number")
case("a negative rate is refused", f"{FORGET} method.forget_lr=-1", "method.forget_lr is -1", "greater than or equal")
case("a rate that is no number is refused", f"{FORGET} method.forget_lr=.nan", "method.forget_lr is nan", "finite")
case("an infinite rate is refused", f"{FORGET} method.retain_lr=.inf", "method.retain_lr is inf", "finite")
case("no steps are refused", f"{FORGET} method.num_steps=0", "method.num_steps is 0", "greater than or equal to 1")
case("half a step is refused", f"{FORGET} method.num_steps=1.5", "method.num_steps is 1.5", "integer")
case("a list for a number is refused", f"{FORGET} 'run.seed=[1]'", "run.seed is [1]", "integer")
case("an unknown precision is refused", f"{FORGET} run.precision=fp8", "run.precision is 'fp8'", "'fp32' or 'bf16'")
case("a momentum of 1 is refused", f"{FORGET} optimizers.forget_momentum=1", "forget_momentum is 1", "less than 1")
case("an unknown mode of optimizers is refused", f"{FORGET} optimizers.mode=two", "optimizers.mode is 'two'", "'dual'")
case("a mask of an unknown kind is refused", f"{FORGET} method.mask.kind=magic", "magic", "'fisher_ratio'")
case("a mask of a negative threshold is refused", f"{FORGET} method.mask.threshold=-2", "threshold is -2", "greater")
case("an accuracy above 1 is refused", f"{FORGET} evaluation.min_accuracy=2", "evaluation.min_accuracy is 2", "less")
case("a thousand and one sampling steps are refused", f"{FORGET} sampling.num_inference_steps=1001", "1001", "less")
case("an unknown protocol is refused", f"{FORGET} evaluation.protocol=quik", "'quik'", "did you mean quick")
case("an unknown data set is refused", f"{FORGET} data.name=mnist", "data.name is 'mnist'", "'digits'")
case("images of size 0 are refused", f"{FORGET} data.image_size=0", "data.image_size is 0", "greater")
case("seeds that run backwards are refused", f"{FORGET} sampling.seeds=9-1", "'9-1'", "write the smaller first")
case("a seed named twice is refused", f"{FORGET} sampling.seeds=0-4,3", "'0-4,3'", "twice")
case("more seeds than memory holds are refused", f"{FORGET} sampling.seeds=0-99999999999", "99999999999", "at most")
case("a seed of thousands of digits is refused", f"{FORGET} sampling.seeds='\"{'9' * 5000}\"'", "999", "largest seed")
case("an unknown device is refused", f"{FORGET} run.device=gpu", "run.device is 'gpu'", "expected one of auto")
case("a device that is not here is refused", f"{FORGET} run.device=mps", "run.device is 'mps'", "use run.device=auto")
case("another user's home that does not exist is refused", f"{FORGET} data.path=~nobody-at-all/x", "~nobody", "home")
case("a tracker that is not installed is refused", f"{FORGET} run.tracker=wandb", "'wandb'", "pip install wandb")

# Recipes: keys.
for section, key, meant in (
    ("run", "sed", "seed"), ("data", "batchsize", "batch_size"), ("model", "pth", "path"),
    ("method", "forget_rate", "forget_lr"), ("method.mask", "treshold", "threshold"),
    ("optimizers", "forgt", "forget"), ("sampling", "sheduler", "scheduler"),
    ("evaluation", "classifer", "classifier"), ("run.stop_when", "forget_facto", "forget_factor"),
):
    case(f"an unknown key of {section} names the nearest", f"{FORGET} {section}.{key}=1", f"{section}.{key}", meant)
case("an unknown key of a U-Net names the nearest", "pretrain $recipes/tiny_pretrain.yaml model.widht=3 --out $out",
     "model.widht", "did you mean width")
case("an unknown key of a transformer names the nearest",
     "pretrain $recipes/tiny_dit_pretrain.yaml model.num_layer=3 --out $out",
     "model.num_layer", "did you mean num_layers")
case("an unknown family of models is refused", "pretrain $recipes/tiny_pretrain.yaml model.family=gan --out $out",
     "'gan'", "'ddpm', 'dit'")
case("an unknown key of a classifier names the nearest",
     "train-classifier $recipes/tiny_classifier.yaml classifier.nme=x --out $out", "classifier.nme", "name")
case("an unknown section names the nearest", f"{FORGET} metod.name=sfron", "there is no key metod", "method")
for override in ("method.forget_lr", "forget_lr=1", "=1", "method.=1"):
    case(f"the override {override} is of no form", f"{FORGET} {override}", repr(override), "such as method.forget_lr=")
case("an override that is no YAML is refused", f"{FORGET} 'method.num_steps=[a'", "'[a'", "cannot be read")
case("an override that is no date is refused", f"{FORGET} method.num_steps=2020-13-45", "'2020-13-45'",
     "cannot be read")
case("an override with a python object is refused", f"{FORGET} 'method.num_steps=!!python/name:os.system x'",
     "os.system", "cannot be read")
case("a list of thousands of levels is refused", f"{FORGET} 'method.num_steps={'[' * 3000}'", "method.num_steps",
     "nested")

# Recipes: files.
for section in ("data", "model", "method", "evaluation"):
    case(f"a recipe without the section {section} is refused", OWN, "tiny.yaml", f"{section} is missing",
         prepare=recipe(**{section: None}))
    case(f"a recipe with a word as {section} is refused", OWN, "tiny.yaml", f"{section} is 'all'", "expected",
         prepare=recipe(**{section: "all"}))
case("a pretraining recipe with a word as model is refused", "pretrain $tmp/tiny_pretrain.yaml --out $out",
     "tiny_pretrain.yaml", "model is 'unet'", prepare=recipe("tiny_pretrain.yaml", model="unet"))
for name, content, remedy in (
    ("a list", "- run\n- data\n", "must hold sections"),
    ("empty", "", "must hold sections"),
    ("a word", "hello", "must hold sections"),
    ("indented by tabs", "run:\n\tdevice: cpu\n", "cannot start any token"),
    ("no text", b"\xff\xfe\x00\x01", "is not YAML"),
    ("binary zeros", b"\x00" * 64, "is not YAML"),
    ("half a mapping", "run: {device: cpu", "is not YAML"),
    ("a python object", "run: !!python/object/apply:os.system ['true']", "python/object/apply:os.system"),
    ("a date that does not exist", "run: {device: 2020-13-45}", "is not YAML"),
    ("a reference to nothing", "run: *other", "which recipes do without"),
    ("a thousand levels deep", "run: " + 3000 * "[", "is not YAML"),
    ("sections with numbers below them", "run: 3", "must hold sections"),
):
    case(f"a recipe that is {name} is refused", OWN, "tiny.yaml", remedy, prepare=text("tiny.yaml", content))
case("a recipe that is nowhere names its neighbours", "forget digits_sfron_dula --class three --out $out",
     "'digits_sfron_dula'", "did you mean digits_sfron_dual")
case("a folder given as a recipe is refused", "forget $tmp --class three --out $out", "$tmp", "known are")
case("a base that is nowhere is refused", OWN, "'nowhere'", "known are", prepare=recipe(base="nowhere"))
case("a base that is the recipe itself is refused", OWN, "'tiny'", "known are", prepare=recipe(base="tiny"))
case("two recipes that are each other's base are refused", OWN, "tiny.yaml", "one level is allowed",
     prepare=lambda p: (recipe(base="other")(p), text("other.yaml", "base: tiny.yaml\n")(p)))
case("a classifier recipe to forget by is refused", "forget $recipes/tiny_classifier.yaml --class three --out $out",
     "tiny_classifier.yaml", "missing")
case("a forgetting recipe to pretrain by is refused", "pretrain $tiny --out $out", "tiny.yaml", "model")
case("a forgetting recipe to train a judge by is refused", "train-classifier $tiny --out $out", "tiny.yaml", "missing")

# Contradictory choices.
case("a path and a null class of a pretrained model is refused", f"{FORGET} model.null_class=3", "null_class is 3",
     "model.path")
case("linked optimizers that are no Adam are refused", f"{FORGET} optimizers.mode=dual_v optimizers.forget=sgd",
     "dual_v", "adam for both phases")
case("one optimizer with two rates is refused", f"{FORGET} optimizers.mode=shared", "0.0003", "set it to the same")
case("a compact state without a mask is refused", f"{FORGET} optimizers.forget_state=compact method.mask=null",
     "compact", "set method.mask")
case("a compact state of what is no Adam is refused",
     f"{FORGET} optimizers.forget=sgd optimizers.forget_state=compact", "compact", "adam or adamw")
case("keeping the best without quick evaluations is refused",
     f"{FORGET} evaluation.keep=best", "keep: best", "evaluation.every")
case("quick evaluations along a retraining are refused",
     f"{FORGET} method.name=retrain evaluation.every=2", "evaluation.every",
     "leave it out")
case("retraining a model given as a folder is refused", f"{FORGET} method.name=retrain model.path=$model", "Retraining",
     "give model.pretrain")
case("a published protocol on other features is refused", f"{FORGET} evaluation.protocol=published-cifar10",
     "published-cifar10", "set evaluation.features=inception")
case("an optimizer without momentum given one is refused",
     f"{FORGET} optimizers.forget=adagrad optimizers.forget_momentum=0.5", "no momentum", "leave out")
case("an optimizer that needs more than gradients is refused", f"{FORGET} optimizers.retain=lbfgs", "'lbfgs'", "known")
case("going on and starting anew at once is refused", f"{FORGET} --resume --overwrite", "--resume", "one of them")
case("a mask for a method that uses none is refused", f"{FORGET} method.name=finetune --mask $run/mask.safetensors",
     "mask.safetensors", "leave out --mask")
case("replay from no folder is refused", f"{FORGET} data.name=replay", "data.path", "sample MODEL --latents")
case("replay from a folder of something else is refused", f"{FORGET} data.name=replay data.path=$run", "three",
     "sample MODEL --latents")

# Folders of images.
case("an image folder that is nowhere is refused", PHOTOS, "$tmp/photos", "train/CLASS")
case("init of a folder that is nowhere is refused", "init $tmp/photos --out $tmp/mine", "$tmp/photos", "train/CLASS")
case("an image folder without a path is refused", f"{FORGET} data.name=image_folder", "data.path", "train/CLASS")
case("an image folder without classes is refused", PHOTOS, "photos/train", "one for each class",
     prepare=lambda p: (p.tmp / "photos" / "train").mkdir(parents=True))
case("a class without images is refused", PHOTOS, "train/c", "remove it or fill it",
     prepare=images(lambda f: (f / "train" / "c").mkdir()))
case("a folder of a single class is refused", f"{PHOTOS} --class a".replace("--class three ", ""), "All 1",
     "at least one must be retained", prepare=images(names="a"))
case("a test class that is no training class is refused", PHOTOS, "test/z", "known are a, b",
     prepare=images(lambda f: picture(f / "test" / "z" / "0.png")))
case("an image that is not square is refused", PHOTOS, "a/0.png has 8 x 6 pixels", "set data.image_size",
     prepare=images(lambda f: Image.new("L", (8, 6)).save(f / "train" / "a" / "0.png")))
case("images of other classes than the model draws are refused", f"{PHOTOS.replace('three', 'a')} model.path=$model",
     "zero, one, two", "use data with the model's classes", prepare=images())


def damage(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / "train" / name).write_bytes(b"no image") for name in names]


CLASSIFIER = "train-classifier $recipes/tiny_classifier.yaml data.name=image_folder data.path=$tmp/photos --out $out"
case("a damaged image is named, with how many there are", CLASSIFIER, "b/1.png", "2 of 10",
     prepare=images(damage("b/1.png", "b/2.png")))
case("images of two sizes are refused", CLASSIFIER, "b/3.png has 9 x 9 pixels", "set data.image_size",
     prepare=images(lambda f: picture(f / "train" / "b" / "3.png", 9)))
case("a damaged first image is named", CLASSIFIER, "a/0.png", "cannot be read", prepare=images(damage("a/0.png")))
case("an empty image is named", CLASSIFIER, "b/1.png", "is no file with an image in it",
     prepare=images(replaced("train/b/1.png", b"")))
case("half an image is named", CLASSIFIER, "b/1.png", "cannot be read",
     prepare=images(truncated("train/b/1.png"), side=32))
case("a file where the folder of images belongs is refused", PHOTOS, "photos", "train/CLASS",
     prepare=text("photos", "x"))
DIGITS = ("eight", "five", "four", "nine", "one", "seven", "six", "three", "two", "zero")  # as folders are sorted
ALPHABETIC = edited("model_index.json", id2label={str(i): name for i, name in enumerate(DIGITS)})
for mode, side, shape in (("RGBA", 8, "(3, 8, 8)"), ("L", 16, "(1, 16, 16)"), ("P", 8, "(3, 8, 8)")):
    photos = images(names=DIGITS, side=side, mode=mode)
    case(f"images of mode {mode} and side {side} do not fit a model of others", f"{PHOTOS} model.path=$tmp/copy",
         f"the data set holds {shape}", "data.image_size",
         prepare=lambda p, photos=photos: (photos(p), copied("model", ALPHABETIC)(p)))

# Masks.
MASKED = f"{FORGET} model.path=$model --mask $tmp/mask.safetensors"
case("a mask that is nowhere is refused", MASKED, "mask.safetensors", "`dualoptim saliency` makes one")
case("a folder as a mask is refused", f"{FORGET} --mask $model", "model", "`dualoptim saliency` makes one")
case("an empty mask is refused", MASKED, "mask.safetensors", "make one", prepare=text("mask.safetensors", ""))
case("a mask that is text is refused", MASKED, "mask.safetensors", "make one",
     prepare=text("mask.safetensors", "x" * 99))
case("half a mask is refused", MASKED, "mask.safetensors", "make one",
     prepare=lambda p: (shutil.copy(p.run / "mask.safetensors", p.tmp), truncated("mask.safetensors")(p.tmp)))
case("a mask of another model is refused", MASKED, "mask.safetensors", "of another model",
     prepare=lambda p: save_file({"w": torch.ones(3, dtype=torch.bool)}, p.tmp / "mask.safetensors"))
case("a mask of numbers is refused", MASKED, "mask.safetensors", "of another model",
     prepare=lambda p: save_file({name: m.float() for name, m in load_file(p.run / "mask.safetensors").items()},
                                 p.tmp / "mask.safetensors"))
case("a mask without its origin is refused", MASKED, "mask.safetensors", "make another",
     prepare=lambda p: save_file(load_file(p.run / "mask.safetensors"), p.tmp / "mask.safetensors"))
case("a mask with a garbled origin is refused", MASKED, "mask.safetensors", "make one",
     prepare=lambda p: save_file(load_file(p.run / "mask.safetensors"), p.tmp / "mask.safetensors",
                                 {"provenance": "[1"}))
case("a mask for other classes is refused", "forget $tiny --class four --out $out --mask $run/mask.safetensors",
     "['three']", "make another")
case("a mask of a recipe that asks for none is refused", "saliency $tiny method.mask=null --class three --out $out",
     "method.mask", "method.mask.kind=fisher_ratio")
case("a mask for an unknown class is refused", "saliency $tiny --class tree --out $out", "'tree'", "did you mean three")

# Model folders.
for name, change, found in (
    ("without weights", removed(UNET), "diffusion_pytorch_model"),
    ("with half its weights", truncated(UNET), "copy"),
    ("with empty weights", replaced(UNET, b""), "copy"),
    ("with text for weights", replaced(UNET, "weights" * 99), "copy"),
    (
        "with a tensor less",
        tensors(UNET, lambda t: t.pop("unet.conv_in.weight")),
        "lacks the weights unet.conv_in.weight",
    ),
    ("with a renamed tensor", tensors(UNET, lambda t: t.update(other=t.pop("unet.conv_in.bias"))), "unet.conv_in.bias"),
    ("with a reshaped tensor", tensors(UNET, lambda t: t.update({"unet.conv_in.bias": torch.ones(3)})), "conv_in.bias"),
    ("whose index is no JSON", replaced("model_index.json", "{"), "copy"),
    ("whose index is a list", replaced("model_index.json", "[]"), "copy"),
    ("whose index is empty", replaced("model_index.json", "{}"), "copy"),
    ("whose index names an unknown library", edited("model_index.json", unet=["nothing_here", "UNet"]), "nothing_here"),
    ("whose index names an unknown network", edited("model_index.json", unet=["diffusers", "NoNet"]), "NoNet"),
    ("whose classes have no ids", edited("model_index.json", id2label={"x": "three"}), "copy"),
    ("with fewer names than classes", edited("model_index.json", id2label={"0": "zero"}), "copy"),
    ("with a class without a name", edited("model_index.json", id2label={str(i): None for i in range(10)}), "copy"),
    ("without the settings of its network", removed("unet/config.json"), "copy"),
    ("with garbled settings of its network", replaced("unet/config.json", "]"), "copy"),
    ("with impossible settings of its network", edited("unet/config.json", norm_groups=7), "norm_groups 7"),
    ("with another width than its weights", edited("unet/config.json", width=32), "copy"),
    ("without a scheduler", removed("scheduler/scheduler_config.json"), "copy"),
):
    case(f"a model folder {name} is refused", "sample $tmp/copy --out $out --seeds 0", str(found), "pipeline folder",
         prepare=copied("model", change))
case("a model folder that is nowhere is refused", "export $tmp/copy --out $out", "copy", "model_index.json")
case("an empty folder is no model", "classes $tmp", "$tmp", "model_index.json")
case("a file is no model", "sample $tiny --out $out", "tiny.yaml", "model_index.json")
case("a model folder with half its weights is not forgotten from", f"{FORGET} model.path=$tmp/copy", "copy",
     "pipeline folder", prepare=copied("model", truncated(UNET)))
case("a model folder with half its weights is not exported", "export $tmp/copy --out $out", "copy", "pipeline folder",
     prepare=copied("model", truncated(UNET)))
case("a class forgotten before is not forgotten again", f"{FORGET} model.path=$run", "'three'", "name another class")

# Sampling and exporting.
for option, value, remedy in (
    ("seeds", "x", "0-499"), ("seeds", "0-", "0-499"), ("seeds", "''", "0-499"), ("seeds", "3-1", "smaller first"),
    ("scheduler", "euler", "'ddpm', 'ddim'"), ("steps", "0", "greater"), ("guidance-scale", "nan", "finite"),
    ("guidance-scale", "-1", "greater"), ("guidance-channels", "0", "greater"), ("batch-size", "0", "greater"),
):
    case(f"sampling with {option} {value} is refused", f"sample $run --{option}={value} --out $out",
         value.strip("'"), remedy)
case("samples of another model are not mixed", "sample $run --class 1 --seeds 0 --out $tmp/samples", "samples",
     "choose another folder",
     prepare=text("samples/manifest.json", json.dumps({"model_sha256": "other", "shards": {}})))
for name, content in (("no JSON", "{"), ("a list", "[]"), ("no text", b"\xff\xfe"), ("deep", "[" * 99999)):
    case(f"a manifest that is {name} is refused", "sample $run --class 1 --seeds 0 --out $tmp/samples", "samples",
         "manifest.json", prepare=text("samples/manifest.json", content))
case("an unknown format of export is refused", "export $model --out $out --format gguf", "'gguf'",
     "expected diffusers or published")
case("a network with other groups than the research code's has no published form",
     "export $model --out $out --format published", "normalizes 4 groups", "use --format diffusers")

# Patches.
def patch(name: str = "p.safetensors", **changes: object) -> Prepare:
    """Writes a patch of a base that is nowhere."""

    def prepare(place: Place) -> None:
        said = {"base_sha256": "b", "result_sha256": "r", "forgotten": ["three"], "method": "sfron",
                "recipe_sha256": "c", "package_version": "1", "class_names": ["zero"], "null_class": None}
        write_delta(place.tmp / name, Header(**(said | changes)), {"values.w": torch.ones(1)})

    return prepare


case("a patch without --out is a usage error", "delta $run", "--out", code=USAGE)
case("applying no patch is a usage error", "apply $model --out $out", "PATCH", code=USAGE)
case("a patch of what is no run is refused", "delta $model --out $out", "$model", "recipe.yaml")
case("a patch over another file is refused", "delta $run --out $tmp/p", "$tmp/p exists", "use --overwrite",
     prepare=text("p", "precious"))
case("a patch of a run made otherwise is refused", "delta $run method.num_steps=1 --out $out", "method.num_steps=1",
     "override data.path and model.path alone")
case("a patch that is nowhere is refused", "apply $model $tmp/p --out $out", "$tmp/p", "`dualoptim delta` makes one")
case("a patch that is no patch is refused", "apply $model $tmp/p --out $out", "$tmp/p", "make one with",
     prepare=text("p", "hello"))
case("a patch of another base is refused with both hashes", "apply $model $tmp/p.safetensors --out $out",
     "has the sha256", "is a patch of b; give the model", prepare=patch())
case("two patches of one base are never summed", "apply $model $tmp/p.safetensors $tmp/q.safetensors --out $out",
     "same base", "do not add up", prepare=lambda p: (patch()(p), patch("q.safetensors", result_sha256="s")(p)))
case("a patch for what is no model is refused", "apply $tmp $tmp/p.safetensors --out $out", "$tmp",
     "no pipeline folder", prepare=patch())
case("a push of what is no run is refused", "push $model me/three --dry-run", "$model", "no finished run folder")
for name in ("three", "me/", "a/b/c", "me/th ree", "-me/three", "me/three.git"):
    case(f"{name!r} is no name on the hub", f"push $run -- {shlex.quote(name)}", repr(name), "expected OWNER/NAME")

# Importing.
IMPORT = "import $tmp/c.pth --out $out --image-size 8"
case("a checkpoint that is nowhere is refused", IMPORT, "c.pth", "no weight file")
case("an empty checkpoint is refused", IMPORT, "c.pth", "plain tensors", prepare=text("c.pth", ""))
case("a checkpoint that is text is refused", IMPORT, "c.pth", "plain tensors", prepare=text("c.pth", "hello" * 99))
case("half a checkpoint is refused", IMPORT, "c.pth", "plain tensors",
     prepare=lambda p: (published()(p), truncated("c.pth")(p.tmp)))
case("a folder as a checkpoint is refused", "import $model --out $out", "model", "plain tensors")
case("a mask as a checkpoint is refused", "import $run/mask.safetensors --out $out", "mask.safetensors", "no whole")
case("weights that are neither raw nor averaged are refused", f"{IMPORT} --weights best", "'best'", "raw or ema",
     prepare=published())
case("an average that is not in the file is refused", f"{IMPORT} --weights ema", "c.pth", "import the raw ones",
     prepare=published())
case("too few class names are refused", f"{IMPORT} --class-names ant,bee", "2 class names", "expected 4",
     prepare=published())
case("equal class names are refused", f"{IMPORT} --class-names ant,bee,Ant,cow", "ant, bee", "expected 4 different",
     prepare=published())
case("an autoencoder of a U-Net is refused", f"{IMPORT} --vae $model", "--vae", "no autoencoder", prepare=published())
case("a side that cannot be halved is refused", IMPORT.replace("8", "9"), "9 pixels", "8 and 10", prepare=published())
for name, change, found in (
    ("without its first convolution", lambda s: s.pop("conv_in.weight"), "conv_in.weight"),
    ("with a first convolution of one dimension", lambda s: s.update({"conv_in.weight": torch.ones(64)}), "conv_in"),
    ("with a first convolution of no channels", lambda s: s.update({"conv_in.weight": torch.ones(0, 3, 3, 3)}), "conv"),
    ("with a table that is one number", lambda s: s.update({"classes_emb.weight": torch.tensor(1.0)}), "classes_emb"),
    ("without classes", lambda s: s.update({"classes_emb.weight": torch.ones(0, 64)}), "classes_emb"),
    ("with a block of another shape", lambda s: s.update({"mid.block_1.norm1.bias": torch.ones(5)}), "mid.block_1"),
    ("with a block numbered far beyond the others", lambda s: s.update({"down.0.block.999999.x": torch.ones(1)}),
     "down.0.block.1."),
    ("with a level of thousands of digits", lambda s: s.update({f"down.{'9' * 5000}.x": s.pop("conv_out.bias")}),
     "conv_out.bias"),
    ("without levels", lambda s: [s.pop(k) for k in list(s) if k.startswith("down.")], "levels"),
):
    case(f"a checkpoint {name} is refused", IMPORT, "c.pth", found, prepare=published(change))

# Classifiers.
for name, change, found in (
    ("without its settings", removed("classifier.json"), "classifier.json"),
    ("with garbled settings", replaced("classifier.json", "{"), "copy"),
    ("with a list for settings", replaced("classifier.json", "[]"), "copy"),
    ("with an unknown network", edited("classifier.json", name="resnet-99"), "resnet-99"),
    ("with a word for its size", edited("classifier.json", image_size="big"), "image_size"),
    ("with a size of 0", edited("classifier.json", image_size=0), "image_size"),
    ("without accuracies", edited("classifier.json", accuracy=None), "accuracy"),
    ("with a word for an accuracy", edited("classifier.json", accuracy={"three": "good"}), "accuracy"),
    ("with a mean of two channels", edited("classifier.json", mean=[0.5, 0.5]), "mean"),
    ("without weights", removed("classifier.safetensors"), "classifier.safetensors"),
    ("with half its weights", truncated("classifier.safetensors"), "copy"),
    ("with a tensor less", tensors("classifier.safetensors", lambda t: t.pop("fc.bias")), "fc.bias"),
    (
        "with other tensors",
        tensors("classifier.safetensors", lambda t: t.update({"fc.bias": torch.ones(3)})),
        "fc.bias",
    ),
):
    case(f"a classifier {name} is refused", f"{FORGET} evaluation.classifier=$tmp/copy", found, "train-classifier",
         prepare=copied("judge", change))
case("a classifier of other classes is refused", f"{FORGET} evaluation.classifier=$tmp/copy", "'zero'",
     "Use one trained on",
     prepare=copied("judge", edited("classifier.json", id2label={str(i): f"owl {i}" for i in range(10)})))
case("a classifier that is too often wrong is refused", f"{FORGET} evaluation.min_accuracy=1", "'three'",
     "train it better")
case("a model folder as a classifier is refused", f"{FORGET} evaluation.classifier=$model", "model", "train-classifier")
JUDGE = "train-classifier $recipes/tiny_classifier.yaml --out $out"
case("a network that timm has not is refused", f"{JUDGE} classifier.name=resnet-99", "'resnet-99'", "list_models")
case("a judge that nothing trains is refused", f"{JUDGE} training.num_steps=0", "test_resnet", "training.num_steps")
case("a judge that learns too fast is not kept", f"{JUDGE} training.lr=1000", "training.lr", "lower",
     code=EXIT_DIVERGED)
case("a judge's rate that no number holds is refused", f"{JUDGE} training.lr=1e30", "'1e30'", "less than or equal to")
case("weights of a judge that are nowhere are refused", f"{JUDGE} classifier.checkpoint=$tmp/w.pth", "w.pth",
     "no weight file")
case("weights of another network for a judge are refused", f"{JUDGE} classifier.checkpoint=$run/mask.safetensors",
     "mask.safetensors", "does not fit")
case("a mean of two channels for grey images is refused", f"{JUDGE} 'classifier.mean=[0.5, 0.5]'", "[0.5, 0.5]",
     "channel")
case("a deviation of 0 is refused", f"{JUDGE} 'classifier.std=[0]'", "std", "greater than 0")
case("a judge of another image size than its network's is refused", f"{JUDGE} classifier.name=vit_tiny_patch16_224",
     "vit_tiny_patch16_224", "classifier.image_size")
case("real images that are nowhere are refused", "evaluate $run --real-images $tmp/real", "real", "no folder")
case("real images of unknown classes are refused", "evaluate $run --real-images $tmp/photos/train", "photos/train",
     "known are", prepare=images())

# Features.
case("Inception weights that are nowhere are refused", f"{FORGET} --inception-weights $tmp/w.pth", "w.pth",
     "no weight file")
case("Inception weights that are a mask are refused", f"{FORGET} --inception-weights $run/mask.safetensors",
     "mask.safetensors", "FID's Inception")
case("Inception weights that are text are refused", "evaluate $run --inception-weights $tmp/w.pth", "w.pth",
     "plain tensors", prepare=text("w.pth", "x" * 500))
case("features that timm has not are refused", f"{FORGET} evaluation.features=resnet-99", "'resnet-99'", "list_models")

# Pretraining.
PRETRAIN = "pretrain $recipes/tiny_pretrain.yaml --out $out"
for change, found, remedy in (
    ("model.norm_groups=5", "norm_groups 5", "choose at most 8"),
    ("'model.multipliers=[]'", "multipliers", "at least 1"),
    ("'model.multipliers=[1, 0]'", "multipliers", "greater than or equal to 1"),
    ("'model.multipliers=[1, 1, 1, 1, 1]'", "sample_size 8", "nearest sizes"),
    ("data.image_size=7", "sample_size 7", "nearest sizes"),
    ("training.optimizer=sdg", "'sdg'", "did you mean"),
    ("training.num_steps=0", "training.num_steps is 0", "greater"),
    ("training.lr=0", "training.lr is 0", "greater"),
):
    case(f"pretraining with {change} is refused", f"{PRETRAIN} {change}", found, remedy)
DIT = "pretrain $recipes/tiny_dit_pretrain.yaml --out $out"
case("patches that do not tile the images are refused", f"{DIT} model.patch_size=3", "patch_size 3", "divide")
case("a transformer of an impossible width is refused", f"{DIT} model.attention_head_dim=3", "width 6", "multiple of 4")
case("an autoencoder that is nowhere is refused", f"{DIT} model.vae=$tmp/vae", "vae", "name a folder")
case("a pixel model has nothing to encode", "encode $tiny", "pixels", "nothing to encode")
case("encoding by a recipe that is nowhere is refused", "encode nowhere", "'nowhere'", "known are")
case("classes of a recipe that is nowhere are refused", "classes nowhere", "'nowhere'", "known are")

# Runs.
for verb, remedy in (("evaluate $tmp/copy", "it would hold recipe.yaml"),
                     ("audit $tmp/copy", "it would hold recipe.yaml"),
                     ("report $tmp/copy", "run `dualoptim evaluate"),
                     ("grid $tmp/copy --out $out", "it would hold recipe.yaml"),
                     ("sample $tmp/copy --out $out", "it would hold model_index.json")):
    case(f"{verb.split()[0]} of a folder that is nowhere is refused", verb, "copy", remedy)
case("going on with another recipe is refused", "forget $tiny --class three --out $tmp/copy --resume run.seed=5",
     "copy", "use --overwrite to start again", prepare=copied("run"))
case("going on with another class is refused", "forget $tiny --class four --out $tmp/copy --resume", "copy",
     "use --overwrite to start again", prepare=copied("run"))
case("a finished run is not run over", "forget $tiny --class three --out $tmp/copy", "copy", "use --resume to continue",
     prepare=copied("run"))
case("a run whose checkpoints are all damaged does not go on",
     "forget $tiny --class three --out $tmp/copy --resume", "step_6", "Use --overwrite",
     prepare=copied("run", *(truncated(f"checkpoints/step_{n}/state.safetensors") for n in (6,))))
case("a run whose metrics are damaged does not go on", "forget $tiny --class three --out $tmp/copy --resume",
     "metrics.jsonl", "delete it", prepare=copied("run", replaced("metrics.jsonl", b"\xff")))
for name, change, found, remedy in (
    ("without provenance", removed("provenance.json"), "provenance.json", "restore it"),
    ("with garbled provenance", replaced("provenance.json", "{"), "provenance.json", "restore it"),
    ("with a list for provenance", replaced("provenance.json", "[]"), "provenance.json", "restore it"),
    ("with a garbled recipe", replaced("recipe.yaml", "{"), "recipe.yaml", "is not YAML"),
    ("without its model", lambda folder: shutil.rmtree(folder / "model"), "copy/model", "it would hold"),
    ("with half a model", truncated(f"model/{UNET}"), "copy/model", "restore it"),
    ("with garbled samples", replaced("samples/manifest.json", b"\xff{"), "samples", "manifest.json cannot be read"),
    ("with garbled metrics", replaced("metrics.jsonl", "{"), "metrics.jsonl", "delete it"),
    ("with numbers for metrics", replaced("metrics.jsonl", "1\n2\n"), "metrics.jsonl", "delete it"),
    ("with a garbled choice", damaged_choice('{"step": 3'), "selection.json", "restore it"),
    ("with a choice by no rule", damaged_choice('{"step": 3, "FA": 0, "KID": 1}'), "rule is missing", "restore it"),
    ("with words for losses", replaced("metrics.jsonl", '{"step": 1, "forget_loss": "x"}'), "metrics.jsonl", "delete"),
    ("with a garbled audit", replaced("audit.json", "{"), "audit.json", "delete it"),
):
    case(f"a run {name} is not evaluated", "evaluate $tmp/copy", found, remedy, prepare=copied("run", change))
for name, change, found in (
    ("without results", removed("results.json"), "copy"),
    ("with garbled results", replaced("results.json", "{"), "copy"),
    ("with a list for results", replaced("results.json", "[]"), "copy"),
    ("without forgotten classes", edited("results.json", forgotten=[]), "copy"),
    ("with a number for its model", edited("results.json", unlearned=3), "copy"),
    ("without a judge", edited("results.json", classifier=None), "copy"),
    ("with a garbled protocol", edited("results.json", protocol={"version": 3, "sampling": 3}), "sampling is 3"),
    ("with words for times", edited("results.json", seconds={"sampling": "long"}), "seconds.sampling is 'long'"),
    ("with a list for a selection", edited("results.json", selection=[3]), "selection is [3]"),
    ("with a number for its classes", edited("results.json", forgotten=[3]), "forgotten.0 is 3"),
):
    case(f"a run {name} is not reported", "report $tmp/copy", found, "dualoptim evaluate",
         prepare=copied("run", change))
case("metrics that are no JSON are not reported", "report $tmp/copy", "metrics.jsonl", "delete it",
     prepare=copied("run", replaced("metrics.jsonl", "{")))
case("metrics of no step are not reported", "report $tmp/copy", "step is missing", "delete it",
     prepare=copied("run", replaced("metrics.jsonl", '{"forget_loss": 1.0}')))
case("a run as its own control is refused", "report $run --control $run --out $out", "three", "name another run")
case("a control that is nowhere is refused", "report $run --control $tmp/x --out $out", "x", "dualoptim evaluate")
case("an override of what made a run is refused", "evaluate $run method.num_steps=3", "method.num_steps",
     "override sampling and evaluation")

# Where to write.
for verb in (FORGET, "sample $run --class 1 --seeds 0 --out $out", "grid $run --out $out", "report $run --out $out",
             "saliency $tiny --class three --out $out", "pretrain $recipes/tiny_pretrain.yaml --out $out",
             "train-classifier $recipes/tiny_classifier.yaml --out $out", "import $tmp/c.pth --image-size 8 --out $out",
             "export $model --out $out"):
    word = verb.split()[0]
    case(f"{word} never writes over a file of another's", verb, "out", "choose another" if word in
         ("forget", "sample", "report") else "use --overwrite",
         prepare=lambda p: (published()(p), text("out", "precious")(p)))
    case(f"{word} never writes below a file", verb.replace("$out", "$tmp/file/out"), "file", "choose another",
         prepare=lambda p: (published()(p), text("file", "precious")(p)))
    if word in ("grid", "saliency", "pretrain", "train-classifier", "import", "export"):
        case(f"{word} replaces nothing but its like", f"{verb} --overwrite", "out", "not what this command writes",
             prepare=lambda p: (published()(p), text("out/thesis.txt", "precious")(p)))
    else:
        case(f"{word} leaves a folder of another's alone", verb, "out", "choose another",
             prepare=lambda p: (published()(p), text("out/thesis.txt", "precious")(p)))
for verb in (FORGET, "sample $run --class 1 --seeds 0 --out $out", "export $model --out $out"):
    case(f"{verb.split()[0]} does not write to the root folder", verb.replace("$out", "/"), "/", "another")
for verb in (FORGET, "sample $run --class 1 --seeds 0 --out $out", "export $model --out $out"):
    case(f"{verb.split()[0]} names a folder that may not be written to", verb.replace("$out", "/proc/out"), "/proc",
         "choose another")
# fmt: on


@pytest.fixture(scope="module")
def base(recipes: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline folder that the finished run began with."""
    out = tmp_path_factory.mktemp("models") / "model"
    assert call("pretrain", recipes / "tiny_pretrain.yaml", "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def judge(recipes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a trained classifier."""
    out = tmp_path_factory.mktemp("judges") / "judge"
    assert call("train-classifier", recipes / "tiny_classifier.yaml", "--out", out) == 0
    return out


def contents(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Size and time of change of every file and folder below it, but for locks."""
    found = {
        entry.path: entry.stat(follow_symlinks=False) for entry in below(folder) if not entry.name.endswith(".lock")
    }
    return {path: (stat.st_size, stat.st_mtime_ns) if S_ISREG(stat.st_mode) else None for path, stat in found.items()}


def below(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    for entry in os.scandir(folder):
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from below(entry)


@pytest.mark.parametrize("wrong", CASES, ids=lambda wrong: wrong.claim)
def test_a_wrong_request_is_one_sentence_and_changes_nothing(
    wrong: Case, dualoptim: Run, recipes: Path, tiny: str, finished: Path, base: Path, judge: Path, tmp_path: Path
) -> None:
    place = Place(tmp_path, finished, base, judge)
    if wrong.prepare is not None:
        wrong.prepare(place)
    names = {
        "tmp": tmp_path, "out": tmp_path / "out", "tiny": tiny, "recipes": recipes, "run": finished,
        "model": base, "judge": judge,
    }  # fmt: skip
    before = {root: contents(root) for root in (tmp_path, recipes, finished, base, judge)}
    outcome = dualoptim(*shlex.split(Template(wrong.command).substitute(names)))
    assert "Traceback" not in outcome.err
    assert outcome.code == wrong.code, outcome.err
    assert outcome.out == ""
    begin = "Error: " if wrong.code == USAGE else "error: "
    (sentence,) = (line for line in outcome.err.splitlines() if line.startswith(begin))
    for part in wrong.parts:
        assert Template(part).substitute(names) in (outcome.err if wrong.code == USAGE else sentence)
    for root, kept in before.items():
        assert contents(root) == kept


def test_a_folder_without_the_right_to_write_is_named(dualoptim: Run, finished: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "locked").mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    outcome = dualoptim("sample", finished, "--class", "one", "--seeds", "0", "--out", folder / "out")
    assert (outcome.code, outcome.out) == (EXIT_FAILED, "")
    assert "locked" in outcome.err
    assert "choose another path" in outcome.err
    assert not list(folder.iterdir())


def test_the_catalogue_names_every_verb_and_no_claim_twice() -> None:
    from dualoptim_diffusion.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {shlex.split(wrong.command)[0] for wrong in CASES} >= verbs
    assert len({wrong.claim for wrong in CASES}) == len(CASES) >= 80
