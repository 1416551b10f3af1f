"""Run state on disk: whole or not there, verified when read, never written by two."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
from filelock import FileLock

from dualoptim_diffusion.core.errors import EXIT_STOPPED, InputError
from dualoptim_diffusion.files.atomic import clear_leftovers
from dualoptim_diffusion.files.checkpoint import FILES, load_checkpoint, save_checkpoint
from tests.helpers.commands import Outcome

Run = Callable[..., Outcome]
IDENTITY = {"recipe": "r", "base model": "b", "mask": "m"}
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}


def state(step: int) -> dict[str, Any]:
    return {"network": {"w": torch.full((3,), float(step))}, "optimizers": {"step": step, "lr": [0.1, None]}}


def save(folder: Path, step: int) -> None:
    save_checkpoint(folder, step, state(step), IDENTITY)


def step_of(folder: Path) -> int:
    restored = load_checkpoint(folder, IDENTITY)
    assert restored is not None
    assert torch.equal(restored.state["network"]["w"], state(restored.step)["network"]["w"])
    assert restored.state["optimizers"] == state(restored.step)["optimizers"]
    return restored.step


def test_the_newest_two_are_kept_and_latest_names_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_10", "step_2"]
    assert (tmp_path / "latest").read_text() == "step_10\n"
    manifest = json.loads((tmp_path / "step_10" / "manifest.json").read_text())
    assert manifest["identity"] == IDENTITY
    assert manifest["step"] == 10
    assert set(manifest["files"]) == set(FILES)
    assert step_of(tmp_path) == 10


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("harm", ["flipped bit", "cut short", "missing"])
def test_a_damaged_newest_is_skipped_with_its_name_and_the_one_before_goes_on(
    tmp_path: Path, name: str, harm: str
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "step_2" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(content if harm == "flipped bit" else content[:-5])
    restored = load_checkpoint(tmp_path, IDENTITY)
    if restored is not None and restored.step == 2:  # a bit of the manifest that names no file, such as a version's
        assert (name, harm) == ("manifest.json", "flipped bit")
        return
    assert restored is not None
    assert restored.step == 1
    (skipped,) = restored.skipped
    assert str(tmp_path / "step_2") in skipped


def test_where_nothing_verifies_every_reason_is_given(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    for step in (1, 2):
        (tmp_path / f"step_{step}" / "state.json").unlink()
    with pytest.raises(InputError, match=r"No checkpoint verifies: .*step_2 .*; .*step_1 "):
        load_checkpoint(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"mask": "other"}, "another mask;"),
        ({"recipe": "x", "base model": "y"}, "another recipe and another base model;"),
    ],
)
def test_another_identity_is_refused_by_what_differs(tmp_path: Path, given: dict[str, str], named: str) -> None:
    save(tmp_path, 1)
    with pytest.raises(InputError, match=named):
        load_checkpoint(tmp_path, IDENTITY | given)


def die_at(operation: int, work: Callable[[], None]) -> bool:
    """Runs `work` in a child that ends, as by SIGKILL, just before its so-many-th change of files; whether it did."""
    child = os.fork()
    if child == 0:
        left = [operation]

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or writes:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_crash_between_any_two_file_operations_of_a_save_leaves_a_folder_that_goes_on(tmp_path: Path) -> None:
    found = []
    for operation in range(100):
        folder = tmp_path / str(operation)
        for step in (1, 2):
            save(folder, step)
        died = die_at(operation, lambda folder=folder: save(folder, 3))
        found.append(step_of(folder))
        clear_leftovers(folder)
        save(folder, 4)  # and the run that goes on can save
        assert sorted(path.name for path in folder.iterdir() if path.name.startswith(("step_", "."))) == sorted(
            ["step_4", f"step_{found[-1]}"]
        )
        if not died:
            break
    assert not died
    assert len(found) > 8  # made: a folder, three files, the rename, latest and its rename; dropped: a folder of three
    assert found[0] == 2
    assert found == sorted(found)
    assert found[-1] == 3


def test_a_full_disk_is_said_and_the_checkpoint_before_stays(
    dualoptim: Run, tiny: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    from dualoptim_diffusion.files import checkpoint

    command = ["forget", tiny, "--class", "three", "run.checkpoint_every=2", "--out"]
    written, save_file = [], checkpoint.save_file

    def full(tensors: dict[str, Any], path: Path) -> None:
        if "step_4" in str(path):
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        written.append(path)
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        failed = dualoptim(*command, tmp_path / "run")
    assert failed.code == 1
    assert "step_4 cannot be written: I/O error: No space left on device" in failed.err
    assert "Traceback" not in failed.err
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["latest", "step_2"]
    assert dualoptim(*command, tmp_path / "run", "--resume").code == 0
    ends = {json.loads((run / "provenance.json").read_text())["model_sha256"] for run in (finished, tmp_path / "run")}
    assert len(ends) == 1


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    dualoptim: Run, tiny: str, finished: Path, tmp_path: Path
) -> None:
    command = ["forget", tiny, "--class", "three", "run.checkpoint_every=2", "--out"]
    assert dualoptim(*command, tmp_path / "run", "--stop-after", 4).code == EXIT_STOPPED
    (tmp_path / "run" / "checkpoints" / "step_4" / "state.safetensors").write_bytes(b"damaged")
    resumed = dualoptim(*command, tmp_path / "run", "--resume")
    assert resumed.code == 0, resumed.err
    assert "step_4 (state.safetensors is not what was written); continuing from step 2" in resumed.err
    ends = {json.loads((run / "provenance.json").read_text())["model_sha256"] for run in (finished, tmp_path / "run")}
    assert len(ends) == 1
    assert (finished / "metrics.jsonl").read_bytes() == (tmp_path / "run" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("lines", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_a_run_killed_outright_and_resumed_ends_as_an_unbroken_one(
    dualoptim: Run, tiny: str, finished: Path, tmp_path: Path, lines: int
) -> None:
    run = tmp_path / "run"
    words = ["forget", tiny, "--class", "three", "run.checkpoint_every=2", "--out", str(run)]
    process = subprocess.Popen([sys.executable, "-m", "dualoptim_diffusion", *words], stderr=subprocess.DEVNULL)
    metrics = run / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= lines):
        sleep(0.002)
    process.kill()
    process.wait()
    assert not (run / "results.json").exists()
    assert dualoptim(*words, "--resume").code == 0
    for name in ("model/unet/diffusion_pytorch_model.safetensors", "metrics.jsonl", "mask.safetensors", "grid.png"):
        assert (run / name).read_bytes() == (finished / name).read_bytes(), name
    for shard in (finished / "samples").glob("*.safetensors"):
        assert (run / "samples" / shard.name).read_bytes() == shard.read_bytes()


@pytest.mark.parametrize("begun", [[], ["recipe.yaml"], ["recipe.yaml", ".provenance.json.7.part"]])
def test_a_run_killed_while_it_claimed_its_folder_begins_anew(
    dualoptim: Run, tiny: str, finished: Path, tmp_path: Path, begun: list[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    inode = run.stat().st_ino
    for name in begun:
        (run / name).write_text("half")
    assert dualoptim("forget", tiny, "--class", "three", "--out", run, "--resume").code == 0
    assert run.stat().st_ino == inode  # the folder itself stays: it may be mounted
    assert not list(run.glob(".*.part"))
    assert (run / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_what_killed_processes_were_writing_hinders_nobody_and_is_cleared_away(
    dualoptim: Run, tiny: str, finished: Path, tmp_path: Path
) -> None:
    run, samples = shutil.copytree(finished, tmp_path / "run"), tmp_path / "samples"
    (run / ".model.7.part" / "unet").mkdir(parents=True)
    samples.mkdir()
    for path in (run / "samples" / ".shard.7.part", run / ".model.7.part" / ".x.7.part", samples / ".manifest.7.part"):
        path.write_text("half")
    assert dualoptim("forget", tiny, "--class", "three", "--out", run, "--resume").code == 0
    words = ("sample", run, "--class", "one", "--seeds", "0", "--steps", "1", "--out", samples)
    assert dualoptim(*words).code == 0  # and a folder with nothing but half a manifest is no stranger's
    assert not [*run.rglob("*.part"), *samples.rglob("*.part")]


def test_two_runs_do_not_write_to_one_folder(dualoptim: Run, tiny: str, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    holder = (
        "import sys, filelock\n"
        "lock = filelock.FileLock(sys.argv[1])\n"
        "lock.acquire()\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / ".run.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    for words in (["forget", tiny, "--class", "three", "--overwrite", "--out", run], ["evaluate", run]):
        refused = dualoptim(*words)
        assert refused.code == 1
        assert "Another run is writing to" in refused.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    other.kill()  # a killed run leaves the folder free
    other.wait()
    with FileLock(tmp_path / ".run.lock", timeout=0):
        pass
    assert dualoptim("evaluate", run).code == 0
