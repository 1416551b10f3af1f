"""A function over many files in worker processes: the same results as in this one, from any script."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualoptim_diffusion.core import workers
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.image_files import Reading, decoded, decoded_bytes

MANY = 2 * workers.AT_ONCE + 7
PATHS = [f"/photos/{i}.png" for i in range(MANY)] + ["/photos/\udcff.png"]  # one name is no UTF-8


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cpus", lambda: 2)


def test_results_come_in_the_order_of_the_paths() -> None:
    assert list(workers.in_processes(os.fsencode, PATHS)) == [os.fsencode(path) for path in PATHS]


def test_few_paths_stay_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert list(workers.in_processes(os.fsencode, ["a", "b"])) == [b"a", b"b"]
    assert list(workers.in_processes(os.fsencode, [])) == []


def test_an_image_is_the_same_there_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    paths, reading = [str(tmp_path / f"{i}.png") for i in range(3)], Reading((3, 4, 4))
    for i, path in enumerate(paths):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(path)
    found = list(workers.in_processes(decoded_bytes, (paths * MANY)[:MANY], *reading))
    assert all(image == decoded(paths[i % 3], reading).tobytes() for i, image in enumerate(found))
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1\.png cannot be read"):
        list(workers.in_processes(decoded_bytes, (paths * MANY)[:MANY], *reading))


def test_a_worker_that_ends_is_told_and_what_is_printed_disturbs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 1 at one of /photos/0\.png to /photos/255\.png"):
        list(workers.in_processes(print, PATHS))  # it returns nothing that has a length
    assert capfd.readouterr().out == ""


def test_a_script_needs_no_guard_around_its_main_part(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from dualoptim_diffusion.core import workers\n"
        "print('once')\n"
        "workers.usable_cpus = lambda: 2\n"
        f"print(len(b''.join(workers.in_processes(os.fsencode, ['abc'] * {MANY}))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["once", str(3 * MANY)]
    assert done.stderr == ""


def test_stopping_early_ends_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    started, plain = [], subprocess.Popen

    def noted(*args: object, **options: object) -> object:
        started.append(plain(*args, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    results = workers.in_processes(os.fsencode, PATHS)
    next(results)
    results.close()
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)
