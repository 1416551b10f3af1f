"""What was there before stays until what replaces it is whole, for a folder as for a file."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import NamedTuple

import pytest

from dualoptim_diffusion.core.errors import EXIT_STOPPED, InputError
from dualoptim_diffusion.files import atomic
from dualoptim_diffusion.files.atomic import (
    atomic_path,
    clear_leftovers,
    copy_folder,
    end_exchange,
    exchange,
    next_of,
    together,
)
from tests.files.test_checkpoint import die_at
from tests.helpers.commands import Outcome, call
from tests.helpers.published import published_state, save

Run = Callable[..., Outcome]


class Writer(NamedTuple):
    """A command that replaces what is at $out, which is made by the same command or is a copy of a run.

    Attributes:
        changed: the command when it replaces.
        of_run: $out is a run folder.
    """

    command: str
    changed: str
    of_run: bool = False


OTHER = "forget $tiny --class four --out $out --overwrite"
WRITERS = {
    "forget": Writer("", OTHER, of_run=True),
    "forget by another method": Writer("", OTHER + " method.name=finetune method.mask=null", of_run=True),
    "evaluate": Writer("", "evaluate $out sampling.seeds=0-1", of_run=True),
    "evaluate as before": Writer("", "evaluate $out", of_run=True),
    "audit": Writer("", "audit $out --probe weights", of_run=True),
    "grid": Writer("", "grid $out --class three", of_run=True),
    "contact sheet": Writer("grid $run --contact-sheet three --out $out/s.png", "grid $run --contact-sheet one --out "
                            "$out/s.png --overwrite"),
    "grid to a file": Writer("grid $run --out $out/g.png", "grid $run --class three --out $out/g.png --overwrite"),
    "report": Writer("", "report $out", of_run=True),
    "report to a folder": Writer("report $run --out $out", "report $run $other --out $out --mixed"),
    "sample": Writer("sample $run --class one --seeds 0 --out $out", "sample $run --class one --seeds 0-2 --out $out"),
    "pretrain": Writer("pretrain $pretrain --out $out", "pretrain $pretrain run.seed=9 --out $out --overwrite"),
    "train-classifier": Writer("train-classifier $judge --out $out", "train-classifier $judge run.seed=9 --out $out "
                               "--overwrite"),
    "export": Writer("export $run --out $out", "export $other --out $out --overwrite"),
    "export as published": Writer("export $raw --format published --out $out/c.pth",
                                  "export $ema --format published --out $out/c.pth --overwrite"),
    "delta": Writer("delta $run --out $out/p", "delta $other --out $out/p --overwrite"),
    "apply": Writer("apply $base $three --out $out", "apply $base $four --out $out --overwrite"),
    "import": Writer("import $checkpoint --image-size 8 --out $out", "import $checkpoint --image-size 8 --weights ema "
                     "--out $out --overwrite"),
    "saliency": Writer("saliency $tiny --class three --out $out/m", "saliency $tiny --class four --out $out/m "
                       "--overwrite"),
}  # fmt: skip


@pytest.fixture(scope="module")
def names(tiny: str, recipes: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("replacing")
    save(root / "c.pth", published_state(), published_state(seed=1))
    assert call("forget", tiny, "--class", "four", "--out", root / "four") == 0
    assert call("pretrain", recipes / "tiny_pretrain.yaml", "--out", root / "base") == 0
    for weights in ("raw", "ema"):
        importing = ("import", root / "c.pth", "--image-size", 8, "--weights", weights)
        assert call(*importing, "--out", root / weights) == 0
    for name, run in (("3.safetensors", finished), ("4.safetensors", root / "four")):
        assert call("delta", run, "--out", root / name) == 0
    return {
        "$raw": root / "raw", "$ema": root / "ema", "$base": root / "base",
        "$three": root / "3.safetensors", "$four": root / "4.safetensors",
        "$tiny": Path(tiny), "$run": finished, "$other": root / "four", "$checkpoint": root / "c.pth",
        "$pretrain": recipes / "tiny_pretrain.yaml", "$judge": recipes / "tiny_classifier.yaml",
    }  # fmt: skip


def spoken(command: str, names: dict[str, Path], out: Path) -> list[str]:
    for name, path in {**names, "$out": out}.items():
        command = command.replace(name, str(path))
    return command.split()


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder but what is written beside them."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not any(
        part.startswith(".") for part in Path(name).parts
    )}  # fmt: skip


@pytest.mark.parametrize("failing", [pytest.param(0, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_fails_leaves_all_that_was_there(
    name: str, failing: int, names: dict[str, Path], dualoptim: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, writer = tmp_path / "out", WRITERS[name]
    if writer.of_run:
        shutil.copytree(names["$run"], out)
    else:
        out.mkdir() if "/" in writer.command.partition("$out")[2] else None
        assert call(*spoken(writer.command, names, out)) == 0
    before, flush, count = contents(out), atomic._fsync, [0]

    def full(path: Path) -> None:
        if tmp_path in path.parents and path.name.endswith(".part"):
            count[0] += 1
            if count[0] > failing:
                raise OSError(errno.ENOSPC, "No space left on device")
        flush(path)

    monkeypatch.setattr(atomic, "_fsync", full)
    outcome = dualoptim(*spoken(writer.changed, names, out))
    if outcome.code == 0:
        assert count[0] <= failing  # it writes fewer files than that
        return
    assert outcome.code == 1
    assert "cannot be written: No space left on device" in outcome.err
    assert "Traceback" not in outcome.err
    grown = contents(out)
    if name == "sample":  # adds to what is there
        before["manifest.json"] = grown["manifest.json"]
    assert {path: grown[path] for path in before} == before
    assert all(path.endswith((".safetensors", ".png")) for path in grown.keys() - before)  # samples alone
    if name in ("forget", "export", "sample"):  # what was left beside hinders nobody
        monkeypatch.setattr(atomic, "_fsync", flush)
        assert dualoptim(*spoken(writer.changed, names, out)).code == 0


def test_a_run_that_was_stopped_while_it_replaces_another_goes_on_beside_it(
    names: dict[str, Path], dualoptim: Run, tmp_path: Path
) -> None:
    run = shutil.copytree(names["$run"], tmp_path / "run")
    before, inode = contents(run), run.stat().st_ino
    words = ("forget", names["$tiny"], "--class", "four", "--out", run)
    assert dualoptim(*words, "--overwrite", "--stop-after", 2).code == EXIT_STOPPED
    assert contents(run) == before
    for command in ("evaluate", "report"):
        assert dualoptim(command, run).code == 0
    assert dualoptim(*words, "--resume").code == 0
    assert run.stat().st_ino == inode  # it may be a mount
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    found, expected = contents(run), contents(names["$other"])
    for name in ("model/unet/diffusion_pytorch_model.safetensors", "metrics.jsonl", "grid.png", "recipe.yaml"):
        assert found[name] == expected[name]
    for name in ("report.html", "report.json", "provenance.json", "metrics.jsonl"):
        assert b".next" not in found[name]


@pytest.mark.parametrize(
    ("number", "lines"),
    [
        (signal.SIGTERM, 3),
        (signal.SIGKILL, 3),
        pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_run_that_was_killed_while_it_replaces_another_leaves_that_whole(
    number: int, lines: int, names: dict[str, Path], dualoptim: Run, tmp_path: Path
) -> None:
    run = shutil.copytree(names["$run"], tmp_path / "run")
    before = contents(run)
    words = ["forget", str(names["$tiny"]), "--class", "four", "--out", str(run)]
    command = [sys.executable, "-m", "dualoptim_diffusion", *words, "--overwrite"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    metrics = next_of(run) / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= lines):
        sleep(0.002)
    process.send_signal(number)
    process.wait()
    assert contents(run) == before
    assert dualoptim("evaluate", run).code == 0
    assert dualoptim(*words, "--resume").code == 0
    assert (run / "metrics.jsonl").read_bytes() == (names["$other"] / "metrics.jsonl").read_bytes()


def fill(folder: Path, content: str, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def test_an_exchange_that_is_cut_off_anywhere_is_ended(tmp_path: Path) -> None:
    for operation in range(60):
        folder = tmp_path / str(operation)
        fill(folder, "old", "recipe", "model/unet/weights", "report")
        fill(next_of(folder), "new", "recipe", "model/unet/weights", "samples/1")
        died = die_at(operation, lambda folder=folder: exchange(folder))
        before = contents(folder)
        end_exchange(folder)
        after = contents(folder)
        if next_of(folder).exists():  # nothing had begun
            assert before == after == dict.fromkeys(["recipe", "model/unet/weights", "report"], b"old")
        else:
            assert after == dict.fromkeys(["recipe", "model/unet/weights", "samples/1"], b"new")
            assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        if not died:
            break
    assert not died
    assert operation > 8


def test_a_folder_that_is_replaced_is_there_before_and_after_a_crash(tmp_path: Path) -> None:
    for operation in range(40):
        folder = tmp_path / str(operation) / "model"
        fill(folder, "old", "a", "b/c")

        def write(folder: Path = folder) -> None:
            with atomic_path(folder) as beside:
                fill(beside, "new", "a", "b/c")

        died = die_at(operation, write)
        clear_leftovers(folder.parent)
        assert contents(folder) in [dict.fromkeys(["a", "b/c"], content) for content in (b"old", b"new")]
        assert [path.name for path in folder.parent.iterdir()] == ["model"]
        if not died:
            break
    assert not died
    assert operation > 4


def test_a_folder_that_cannot_be_moved_to_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "model", "old", "a")
    fill(made := tmp_path.with_name("made"), "new", "a")
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(source).suffix == ".part":
            raise OSError(errno.EIO, "Input/output error", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output"):
        copy_folder(made, tmp_path / "model")
    assert contents(tmp_path) == {"model/a": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_files_that_are_written_together_appear_together(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("a.x", "b.x", "c.x")]
    fill(tmp_path, "old", "a.x", "b.x")

    def write(places: list[Path], failing: bool) -> None:
        with together():
            for place in places:
                with together(), atomic_path(place) as beside:
                    beside.write_text("new")
            assert atomic.seen(places[0]).read_text() == "new"
            assert atomic.files_seen(tmp_path, ".x") == sorted({*tmp_path.glob("*.x"), *places})
            if failing:
                raise InputError("no")

    with pytest.raises(InputError):
        write(places, failing=True)
    assert contents(tmp_path) == {"a.x": b"old", "b.x": b"old"}
    write(places[:1], failing=False)
    assert contents(tmp_path) == {"a.x": b"new", "b.x": b"old"}
    assert sorted(tmp_path.iterdir()) == places[:2]
