"""Does the package read what users bring as the plain tools do? Makes names of classes, folders of images, weight files
and environments at random from a seed, reads each, and compares: with a set of names, with Pillow, with torch, with the
same command elsewhere. Writes user_input.json and .md; ends with 1 where something differs or a traceback appears.

    python scripts/studies/user_input.py --trials 100
    python scripts/studies/user_input.py --kinds folders --first 17 --trials 1    # one of them again
"""

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, dualoptim, parse, parser

LETTERS = "aaabbcCé猫кß #%:,;'\"[](){}&*!?|<>=~`$^+-_.01\t\n\x1b\x07\u202e\u200d\u0301\U0001f408"
SIDE = 8


class Wrong(Exception):
    """What was read is not what is there."""


def expect(held: bool, sentence: str) -> None:
    if not held:
        raise Wrong(sentence)


# Names


def any_name(source: random.Random) -> bytes:
    """Of a folder: any bytes that a file system takes, and no hidden one."""
    kind = source.random()
    if kind < 0.1:
        name = bytes(source.choice([c for c in range(1, 256) if c != 47]) for _ in range(source.randint(1, 20)))
    elif kind < 0.2:
        name = str(source.choice([0, 1, 7, 10, "007", "1e3", "null", "none of these", "null label", "true"])).encode()
    else:
        name = "".join(source.choice(LETTERS) for _ in range(source.choice([1, 2, 3, 5, 12, 60]))).encode()
    return b"x" + name if name[:1] == b"." or name in (b"__MACOSX", b"@eaDir") else name[:250]


def write_class_folders(root: Path, names: Sequence[bytes]) -> None:
    for k, name in enumerate(names):
        folder = os.path.join(os.fsencode(root), b"train", name)
        os.makedirs(folder)
        for i in range(5):
            Image.new("L", (SIDE, SIDE), 20 * k + i).save(os.path.join(os.fsdecode(folder), f"{i}.png"))


def try_names(source: random.Random, place: Path) -> None:
    """Listed, typed, and given files of their own: as many as there are folders, whatever they are called."""
    from dualoptim_diffusion.core.classes import file_names, resolve_class

    names = sorted({any_name(source) for _ in range(source.randint(2, 8))} | {b"a", b"b"}, key=os.fsdecode)
    write_class_folders(place / "data", names)
    data = [f"data.path={place / 'data'}", "data.name=image_folder"]
    listed = call("forget", "digits_sfron_dual", *data, "--class", "id:0", "--dry-run", "--json")
    first = json.loads(listed)["forget"][0]
    from dualoptim_diffusion.files.class_folders import list_folder

    found = list_folder(place / "data").id2label
    expect(len({*found.values()}) == len(names), f"{len(names)} folders have the names {found}")
    expect(found[0] == first, f"class 0 is {found[0]!r} and {first!r}")
    for i, name in found.items():
        expect(resolve_class(name, found) == i, f"{name!r} is class {i}, and is taken for another")
        expect(all(ord(c) >= 32 and not 0xD800 <= ord(c) < 0xE000 for c in name), f"{name!r} reaches terminals")
    folders = {unicodedata.normalize("NFD", name).casefold() for name in file_names(found).values()}
    expect(len(folders) == len(names), f"the classes {found} share files")
    chosen = source.choice(list(found.values()))
    again = json.loads(call("forget", "digits_sfron_dual", *data, "--class", chosen, "--dry-run", "--json"))
    expect(again["forget"] == [chosen], f"{chosen!r} was asked for, {again['forget']} planned")


# Folders


def any_picture(source: random.Random, numbers: np.random.Generator) -> tuple[Image.Image, str, dict[str, Any]]:
    """A picture with its suffix and how it is saved, without loss."""
    pixels = numbers.integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    rgb, rgba, grey = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels), Image.fromarray(pixels[..., 0])
    how: dict[str, Any] = {}
    picture, suffixes = source.choice(
        [
            (rgb, ["png", "bmp", "tif", "ppm", "tga", "webp", "PNG"]), (rgba, ["png", "tif", "webp"]),
            (grey, ["png", "bmp", "tif", "pgm", "tga"]), (rgb.quantize(16), ["png", "gif", "bmp", "tif"]),
            (Image.merge("LA", [grey, rgba.getchannel("A")]), ["png"]), (rgb.convert("CMYK"), ["tif"]),
            (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), ["png", "tif"]),
            (grey.point(lambda v: v > 99, "1"), ["png", "tif"]),
        ]
    )  # fmt: skip
    suffix = source.choice(suffixes)
    if suffix == "webp":
        how["lossless"] = True
    if suffix in ("png", "webp", "tif") and source.random() < 0.3:
        how["exif"] = Image.Exif()
        how["exif"][0x0112] = source.randint(1, 8)
    return picture, suffix, how


def plainly(path: Path, background: tuple[int, int, int], mode: str) -> bytes:
    """The pixels of an image by Pillow's own functions."""
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode.startswith("I"):
            upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
        if upright.has_transparency_data:
            under = Image.new("RGBA", upright.size, (*background, 255))
            under.alpha_composite(upright.convert("RGBA"))
            upright = under
        return upright.convert(mode).tobytes()


def try_folder(source: random.Random, place: Path) -> None:
    """Every image of a class with the pixels that Pillow gives, and as many files left out as are no images."""
    from dualoptim_diffusion.core.config import DataConfig
    from dualoptim_diffusion.data import load_dataset
    from dualoptim_diffusion.files.class_folders import list_folder

    numbers, expected, others = np.random.default_rng(source.randrange(2**32)), Counter[tuple[str, bytes]](), 0
    background = source.choice([("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#10ff80", (16, 255, 128))])
    channels = source.choice([1, 3])
    for name in ("cat", "dog"):
        for i in range(source.randint(3, 9)):
            folder = place / "train" / name / source.choice(["", "", "", "a", "a/b", ".hidden", "__MACOSX"])
            folder.mkdir(parents=True, exist_ok=True)
            picture, suffix, how = any_picture(source, numbers)
            path = folder / f"{source.choice(['', '', '', '._'])}{i}.{suffix}"
            picture.save(path, **how)
            hidden = path.name.startswith(".") or folder.name in (".hidden", "__MACOSX")
            damage = source.random()
            if damage < 0.1 and not hidden:
                path.write_bytes(path.read_bytes()[: source.randrange(20)])
                others += 1
            elif damage < 0.15:
                path.with_suffix(".txt").write_text("no image")
                path.unlink()
                others += not hidden
            elif not hidden:
                mode = "L" if channels == 1 else "RGB"
                expected[name, plainly(path, background[1], mode)] += 1
        for i in range(2):
            Image.new("RGB", (SIDE, SIDE), (i, 2, 3)).save(path := place / "train" / name / f"sound{i}.png")
            expected[name, plainly(path, background[1], "L" if channels == 1 else "RGB")] += 1
    config = DataConfig(
        name="image_folder", path=str(place), channels=channels, background=background[0], skip_damaged=True
    )
    found: Counter[tuple[str, bytes]] = Counter()
    with contextlib.redirect_stderr(io.StringIO()) as said:
        for part in load_dataset(config):
            for image, label in zip(part.images, part.class_labels.tolist(), strict=True):
                found[part.id2label[label], image.permute(1, 2, 0).numpy().tobytes()] += 1
    expect(found == expected, f"{sum(expected.values())} images, of which {(expected - found).total()} differ")
    listed = list_folder(place)
    told = f"{others} file{'s' * (others > 1)} skipped" in said.getvalue()
    expect(told or not others, f"{others} of {others + len(listed.images)} files left out, said: {said.getvalue()}")


# Weights


def try_weights(source: random.Random, place: Path) -> None:
    """The tensors of a classifier, whatever a training script has put around them."""
    import timm

    from dualoptim_diffusion.judge.timm_models import load_weights

    torch.manual_seed(source.randrange(2**32))
    network = timm.create_model("test_resnet", num_classes=3)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    kept = dict(state)
    if source.random() < 0.3:
        state = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    dtype = source.choice([torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64])
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    for prefix in source.choices(["module.", "_orig_mod.", "model."], k=source.randint(0, 3)):
        state = {prefix + name: value for name, value in state.items()}
    if source.random() < 0.3:
        save_file(state, path := place / "w.safetensors")
    else:
        content: Any = state
        containers = ["state_dict", "model_state_dict", "model", "net", "ema", "state_dict_ema", "params"]
        for name in source.sample(containers, source.randint(0, 2)):
            content = {name: content, "epoch": 3, "optimizer": {"state": {0: {"step": 1}}, "param_groups": []}}
        torch.save(content, path := place / "w.pth")
    read = timm.create_model("test_resnet", num_classes=3)
    with contextlib.redirect_stderr(io.StringIO()):
        load_weights(read, path, head_may_differ=False)
    for name, value in read.state_dict().items():
        stored = kept[name].to(dtype).to(value.dtype) if value.is_floating_point() else kept[name]
        expect(torch.equal(value, stored), f"{name} differs in {path.name} of {dtype}")


# Environments

VARIABLES: dict[str, tuple[str | None, ...]] = {
    "HOME": (None, "/dev/null", "/nowhere"), "DUALOPTIM_CACHE": (None, "/dev/null/cache"), "TMPDIR": ("/nowhere",),
    "RANK": ("0", "3", "", "x"), "WORLD_SIZE": ("1", "4", ""), "LOCAL_RANK": ("0", "2", "-1"), "COLUMNS": ("1", "40"),
    "TERM": (None, "dumb", "xterm"), "LC_ALL": ("C", "POSIX", "xx_XX"), "PYTHONIOENCODING": ("ascii", "cp1252"),
    "OMP_NUM_THREADS": ("1", "3", "x", ""), "NO_COLOR": ("1",), "PYTHONWARNINGS": ("error::UserWarning:none",),
    "CUDA_VISIBLE_DEVICES": ("", "7", "-1"), "PYTHONUTF8": ("0", "1"), "PYTHONHASHSEED": ("1", "99"),
    "LANG": (None, "C"), "ACCELERATE_USE_CPU": ("true",), "TQDM_DISABLE": ("1",), "XDG_CACHE_HOME": ("/nowhere",),
    "USER": (None,),
}  # fmt: skip


def try_environment(source: random.Random, place: Path) -> None:
    """The same plan as in the environment of this process, the estimated time left aside."""
    chosen = {name: source.choice(VARIABLES[name]) for name in source.sample(list(VARIABLES), source.randint(1, 7))}
    words = ["-m", "dualoptim_diffusion", "forget", str(toy.write_recipes(place)), "--class", "three", "--dry-run"]
    plans = []
    for changes in ({}, chosen):
        surroundings = {name: value for name, value in (os.environ | changes).items() if value is not None}
        done = subprocess.run([sys.executable, *words, "--json"], env=surroundings, capture_output=True, check=False)
        expect(done.returncode == 0 and b"Traceback" not in done.stderr, f"{chosen}: {done.stderr[-500:]!r}")
        plans.append(json.loads(done.stdout) | {"estimated_seconds": None})
    expect(plans[0] == plans[1], f"another plan under {chosen}")


def call(*words: str) -> str:
    """What the command prints, in this process."""
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said):
        code = dualoptim(*words, log=printed, here=True)
    expect(code == 0, f"dualoptim {' '.join(words)} ended with {code}: {printed.getvalue()[-500:]}{said.getvalue()}")
    text = printed.getvalue()
    return text[text.index("{") :]


KINDS: dict[str, Callable[[random.Random, Path], None]] = {
    "names": try_names, "folders": try_folder, "weights": try_weights, "environments": try_environment,
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--trials", type=int, default=100, help="of each kind [default: %(default)s]")
    options.add_argument("--first", type=int, default=0, help="seed of the first trial [default: %(default)s]")
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="these alone")
    arguments = parse(options, words)
    trials = 1 if arguments.toy else arguments.trials
    wrong: dict[str, dict[int, str]] = {kind: {} for kind in arguments.kinds}
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, {"DUALOPTIM_CACHE": str(Path(folder, "cache"))}),
    ):
        for kind in arguments.kinds:
            for seed in tqdm(range(arguments.first, arguments.first + trials), desc=kind, unit="trial"):
                (place := Path(folder) / f"{kind}{seed}").mkdir()
                try:
                    KINDS[kind](random.Random(f"{kind} {seed}"), place)
                except Exception as error:
                    wrong[kind][seed] = f"{type(error).__name__}: {error}"
                    tqdm.write(f"{kind} {seed}: {wrong[kind][seed]}", file=sys.stderr)
                shutil.rmtree(place)
    body = [[kind, trials, trials - len(found), len(found)] for kind, found in wrong.items()]
    command = command_line(__file__, words)
    lines = [
        "# What users bring",
        "",
        f"`{command}`",
        "",
        *tables.table(["kind", "trials", "as plainly", "wrong"], body),
    ]
    content = {"command": command, "first": arguments.first, "trials": trials, "wrong": wrong}
    tables.write(arguments.out / "user_input", content, text := "\n".join(lines) + "\n")
    print(text)
    if any(wrong.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
