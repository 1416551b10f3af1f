"""What is kept is what was written, or it is told of and made anew; a cache that cannot be written hinders nobody."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from dualoptim_diffusion.files import cache as kept
from tests.helpers.commands import Outcome, call
from tests.helpers.photos import write_photos, write_recipes

Run = Callable[..., Outcome]
PURE = ("forget", "$recipe", "--class", "cat", "--out", "$out", "method.mask.estimator=class_pure")
FORGET = PURE[:-1]
AUDIT = ("audit", "$out", "--probe", "weights")
AMNESIA = (*FORGET, "method.name=sa", "method.mask=null", "method.update=joint",
           "method.replay_per_class=2", "method.fisher_timesteps=2")  # fmt: skip


class Kind(NamedTuple):
    """A kind of kept things: which files, of the last command that reads them."""

    files: str
    command: tuple[str, ...]


KINDS = {
    "decoded images": Kind("data/*.safetensors", FORGET),
    "hashes of images": Kind("contents/*.json", FORGET),
    "a base model": Kind("models/*/model/unet/*.safetensors", FORGET),
    "a base model's index": Kind("models/*/model/model_index.json", FORGET),
    "a classifier": Kind("classifiers/*/classifier.safetensors", FORGET),
    "what a classifier says of itself": Kind("classifiers/*/classifier.json", FORGET),
    "a mask": Kind("masks/*.safetensors", FORGET),
    "features of real images": Kind("references/*.safetensors", FORGET),
    "samples": Kind("samples/*/*.safetensors", FORGET),
    "what samples were drawn from": Kind("samples/*/manifest.json", FORGET),
    "gradients of a class": Kind("fishers/*/*.safetensors", PURE),
    "gradients of replayed images": Kind("fishers/*.safetensors", AMNESIA),
    "a part of an audit": Kind("audits/*.json", AUDIT),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 0x04
    path.write_bytes(content)


def foreign(path: Path) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps({"another": ["thing"]}))
    else:
        save_file({"another": torch.zeros(1)}, path)


HARMS: dict[str, Callable[[Path], object]] = {
    "with a flipped bit": flip,
    "of something else": foreign,
    "half written": lambda path: os.truncate(path, path.stat().st_size // 2),
}


def spoken(words: tuple[str, ...], **names: object) -> list[str]:
    return [str(names.get(word.removeprefix("$"), word)) if word.startswith("$") else word for word in words]


def made(run: Path) -> dict[str, object]:
    """What must not change: weights and figures."""
    found: dict[str, object] = {
        name: json.loads((run / "provenance.json").read_text())[name] for name in ("model_sha256", "base_model_sha256")
    }
    results = json.loads((run / "results.json").read_text())
    found |= {name: results[name] for name in ("original", "unlearned", "protocol_hash")}
    if (run / "audit.json").is_file():
        found["probes"] = json.loads((run / "audit.json").read_text())["probes"]
    return found


class World(NamedTuple):
    recipe: Path
    cache: Path
    runs: dict[tuple[str, ...], Path]  # by the command that made them


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A cache that holds something of each kind, and the runs that were made with it."""
    root = tmp_path_factory.mktemp("kept")
    recipe = write_recipes(root / "recipes", write_photos(root / "data"))
    runs = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUALOPTIM_CACHE", str(root / "cache"))
        for i, command in enumerate((FORGET, PURE, AMNESIA)):
            runs[command] = root / str(i)
            assert call(*spoken(command, recipe=recipe, out=runs[command])) == 0
        runs[AUDIT] = shutil.copytree(runs[FORGET], root / "audited")
        assert call(*spoken(AUDIT, out=runs[AUDIT])) == 0
    return World(recipe, root / "cache", runs)


@pytest.mark.parametrize(
    ("kind", "harm"),
    [
        pytest.param(kind, harm, marks=[] if i == k % len(HARMS) and k % 3 == 0 else [pytest.mark.slow])
        for k, kind in enumerate(KINDS)
        for i, harm in enumerate(HARMS)
    ],
)
def test_what_was_kept_is_used_as_it_was_written_or_made_anew(
    kind: str, harm: str, world: World, dualoptim: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, (files, command) = shutil.copytree(world.cache, tmp_path / "cache"), KINDS[kind]
    monkeypatch.setenv("DUALOPTIM_CACHE", str(mine))
    paths = sorted(mine.glob(files))
    assert paths
    for path in paths:
        HARMS[harm](path)
    if command == AUDIT:
        shutil.copytree(world.runs[FORGET], tmp_path / "run")
    if kind == "gradients of a class":  # which only a mask is made from
        shutil.rmtree(mine / "masks")
    outcome = dualoptim(*spoken(command, recipe=world.recipe, out=tmp_path / "run"))
    assert outcome.code == 0, outcome.err
    assert made(tmp_path / "run") == made(world.runs[command])
    told = [line for line in outcome.err.splitlines() if "damaged" in line]
    assert told or (kind, harm) == ("what samples were drawn from", "with a flipped bit")  # in a name, say
    again = dualoptim("evaluate", tmp_path / "run")
    assert again.code == 0, again.err
    assert not {*told} & {*again.err.splitlines()}


COMMANDS = {
    "forget": FORGET,
    "forget, class by class": PURE,
    "evaluate": ("evaluate", "$run"),
    "evaluate in another way": ("evaluate", "$run", "evaluation.protocol=quick", "sampling.seeds=0-1"),
    "grid": ("grid", "$run"),
    "audit": ("audit", "$run", "--probe", "weights"),
    "pretrain": ("pretrain", "$p", "--out", "$out"),
    "train-classifier": ("train-classifier", "$c", "--out", "$out"),
    "saliency": ("saliency", "$recipe", "--class", "cat", "--out", "$out"),
    "sample": ("sample", "$run", "--class", "dog", "--seeds", "0", "--out", "$out"),
}
EMPTY = ("forget", "pretrain", "audit")  # tried where nothing is kept
UNWRITABLE = "going on without keeping"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        pytest.param(name, full, id=f"{name}, {'all is there, and the disk is full' if full else 'nothing is there'}",
                     marks=[] if full or name in EMPTY else [pytest.mark.slow])
        for name in COMMANDS
        for full in (False, True)
    ],
)  # fmt: skip
def test_a_cache_that_cannot_be_written_is_read_all_the_same(
    name: str, full: bool, world: World, dualoptim: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = shutil.copytree(world.cache, tmp_path / "cache") if full else Path("/proc") / tmp_path.name
    monkeypatch.setenv("DUALOPTIM_CACHE", str(mine))
    before = {path: path.stat().st_mtime_ns for path in mine.rglob("*") if path.suffix != ".lock"} if full else {}
    if full:
        deny(monkeypatch, mine)
    run = shutil.copytree(world.runs[FORGET], tmp_path / "run")
    names = {"recipe": world.recipe, "run": run, "out": tmp_path / "out"}
    names |= {stem: world.recipe.with_name(f"{stem}.yaml") for stem in "pc"}
    outcome = dualoptim(*spoken(COMMANDS[name], **names))
    assert outcome.code == 0, outcome.err
    assert outcome.err.count(UNWRITABLE) == (name != "sample" and not _needs_nothing_new(name, full))
    if full:
        assert {path: path.stat().st_mtime_ns for path in mine.rglob("*") if path.suffix != ".lock"} == before
        assert "pretraining:" not in outcome.err
    if name.startswith("forget"):
        assert made(tmp_path / "out") == made(world.runs[COMMANDS[name]])


def _needs_nothing_new(name: str, full: bool) -> bool:
    return full and name in ("audit", "pretrain", "train-classifier", "saliency")


def deny(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nothing new can be written below a folder."""
    replace, temporary = os.replace, tempfile.TemporaryFile

    def refuse(path: Path) -> None:
        if folder in path.parents:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def replaced(source: Path, target: Path) -> None:
        refuse(Path(target))
        replace(source, target)

    def opened(dir: Path) -> object:
        refuse(dir / "any")
        return temporary(dir=dir)

    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(tempfile, "TemporaryFile", opened)


@pytest.mark.parametrize("harm", HARMS)
def test_an_entry_is_read_once_a_process_and_again_when_it_changed(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DUALOPTIM_CACHE", str(tmp_path))
    path, made_times, hashed = tmp_path / "x" / "1.safetensors", [], []
    monkeypatch.setattr("dualoptim_diffusion.core.hashes.file_sha256", lambda path: hashed.append(path) or "0" * 64)

    def make() -> dict[str, torch.Tensor]:
        made_times.append(1)
        return {"a": torch.arange(9)}

    for _ in range(3):
        assert torch.equal(kept.get_or_make_tensors(path, make)["a"], torch.arange(9))
    assert len(made_times) == 1
    assert len(hashed) <= 2  # when it was written, under another name, and when it was first read
    monkeypatch.undo()
    monkeypatch.setenv("DUALOPTIM_CACHE", str(tmp_path))
    HARMS[harm](path)
    assert torch.equal(kept.get_or_make_tensors(path, make)["a"], torch.arange(9))
    assert capfd.readouterr().err.count(f"{path} in the cache is damaged") == 1
