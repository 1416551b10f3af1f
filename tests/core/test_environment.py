"""A command works in whatever environment it is started in: no home, stray variables, closed or narrow outputs."""

import io
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from dualoptim_diffusion.core import environment
from dualoptim_diffusion.core.terminal import say_once

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without a launcher's variables."""
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    say_once.cache_clear()
    return monkeypatch


LIBRARY = """
import logging, sys, warnings
from dualoptim_diffusion.core import environment, terminal
environment.show_libraries({shown})
import tqdm
warnings.warn("warned")
logging.getLogger("library").warning("logged")
logging.getLogger("library").error("failed")
terminal.EVERY = 1e-9
list(tqdm.tqdm(range(3), desc="bar of a library"))
list(terminal.progress(range(3), desc="progress"))
"""


@pytest.mark.parametrize(("shown", "python"), [(False, []), (True, []), (False, ["-W", "default"])])
def test_libraries_are_silent_unless_the_user_asks_and_their_bars_are_for_terminals(
    shown: bool, python: list[str]
) -> None:
    command = [sys.executable, *python, "-c", LIBRARY.format(shown=shown)]
    inherited = {name: value for name, value in os.environ.items() if name not in ("TQDM_DISABLE", "PYTHONWARNINGS")}
    err = subprocess.run(command, capture_output=True, text=True, check=True, env=inherited).stderr
    assert ("warned" in err) == (shown or bool(python))
    assert ("logged" in err) == shown
    assert "failed" in err
    assert "bar of a library" not in err
    assert "progress: 100%" in err


STRAY = {
    "one rank": {"RANK": "3"},
    "a world alone": {"WORLD_SIZE": "4"},
    "an empty world": {"WORLD_SIZE": ""},
    "a local rank": {"LOCAL_RANK": "2"},
    "a rank in a world": {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
    "a word for a rank": WHOLE | {"RANK": "first"},
    "a negative rank": WHOLE | {"LOCAL_RANK": "-1"},
    "no meeting place": {name: value for name, value in WHOLE.items() if name != "MASTER_ADDR"},
    "no port": {name: value for name, value in WHOLE.items() if name != "MASTER_PORT"},
    "a meeting place alone": {"MASTER_ADDR": "node0"},
}


@pytest.mark.parametrize("stray", STRAY.values(), ids=STRAY)
def test_some_of_a_launchers_variables_are_left_out_and_named(
    bare: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stray: dict[str, str]
) -> None:
    for name, value in stray.items():
        bare.setenv(name, value)
    environment.drop_stray_launcher()
    assert not WHOLE.keys() & os.environ.keys()
    said = capsys.readouterr().err
    assert all(f"{name}={value!r}" in said for name, value in stray.items())


def test_a_launchers_variables_stay_and_so_does_none(
    bare: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.drop_stray_launcher()
    for name, value in WHOLE.items():
        bare.setenv(name, value)
    environment.drop_stray_launcher()
    assert {name: os.environ[name] for name in WHOLE} == WHOLE
    assert capsys.readouterr().err == ""


def test_without_a_home_and_with_an_unknown_user_there_is_a_place_among_temporary_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    assert environment.home().name == f"home-{os.getuid()}"
    assert "There is no home folder" in capsys.readouterr().err
    monkeypatch.setenv("HOME", "/somewhere")
    assert environment.home() == Path("/somewhere")


def test_a_closed_output_takes_all_and_a_legacy_one_takes_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    legacy = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", legacy)
    environment.settle_streams()
    print("кот", file=sys.stdout, flush=True)
    assert legacy.buffer.getvalue() == rb"\u043a\u043e\u0442" + os.linesep.encode()
    print("кот", file=sys.stderr)


NO_HOME, BAD_HOME = {"HOME": None, "DUALOPTIM_CACHE": None}, {"HOME": "/dev/null", "DUALOPTIM_CACHE": None}
COMMANDS = {  # a process each; what says something of other things is set together
    "no home, a stray rank, 40 columns of a dumb terminal, a reader that leaves": (
        NO_HOME | {"RANK": "3", "WORLD_SIZE": "8", "COLUMNS": "40", "TERM": "dumb"}, "| true",
    ),
    "a home that is none, the plain C locale, no temporary folder": (
        BAD_HOME | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "TMPDIR": "/nowhere"}, "",
    ),
    "closed streams": ({}, "2>&- </dev/null"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "around"), COMMANDS.values(), ids=COMMANDS)
def test_a_dry_run_ends_well(tiny: str, changes: dict[str, str | None], around: str) -> None:
    surroundings = {name: value for name, value in (os.environ | changes).items() if value is not None}
    command = f"{sys.executable} -m dualoptim_diffusion forget {tiny} --class three --dry-run {around}"
    done = subprocess.run(command, shell=True, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "updates" in done.stdout or around == "| true"
