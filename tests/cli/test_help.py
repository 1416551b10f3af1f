"""Help fits the terminal, is never cut, and shows commands that work."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pytest
import typer

from dualoptim_diffusion import cli
from tests.helpers.commands import Outcome

Run = Callable[..., Outcome]
VERBS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
WIDTHS = (40, 80, 120)


def helped(dualoptim: Run, monkeypatch: pytest.MonkeyPatch, width: int, *verb: str) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    outcome = dualoptim(*verb, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("verb", [None, *VERBS])
def test_no_line_is_wider_than_the_terminal(
    dualoptim: Run, monkeypatch: pytest.MonkeyPatch, verb: str | None, width: int
) -> None:
    text = helped(dualoptim, monkeypatch, width, *([verb] if verb else []))
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_the_list_has_each_verb_once_with_its_whole_first_sentence(
    dualoptim: Run, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    text = helped(dualoptim, monkeypatch, width)
    words = " ".join(text.split())
    for name, verb in VERBS.items():
        first = " ".join(verb.help.split("\n\n")[0].split())
        assert words.count(f" {name} {first}") == 1
    assert re.findall(r"^\S.*:$", text, re.MULTILINE) == [
        "Options:", "Forget:", "Look at the result:", "Models:", "Lists:"
    ]  # fmt: skip
    if width >= 80:  # a line each
        assert len(text.split("Forget:")[1].splitlines()) == len(VERBS) + 7


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_ends_with_examples_that_a_shell_reads_as_one_line_each_and_that_parse(
    dualoptim: Run, monkeypatch: pytest.MonkeyPatch, verb: str, width: int
) -> None:
    text = helped(dualoptim, monkeypatch, width, verb)
    shown = re.split(r"^Examples?:\n", text, flags=re.MULTILINE)[1].replace("\\\n", " ").strip().splitlines()
    assert [shlex.split(line) for line in shown] == [shlex.split(line) for line in VERBS[verb].epilog.splitlines()]
    for line in shown:
        program, name, *arguments = shlex.split(line)
        assert (program, name) == ("dualoptim", verb)
        VERBS[verb].make_context(verb, arguments)


def test_the_version_is_that_of_the_installed_package(dualoptim: Run) -> None:
    assert dualoptim("--version") == (0, f"dualoptim {version('dualoptim-diffusion')}\n", "")


@pytest.mark.parametrize("place", ["before", "behind"])
def test_verbose_adds_the_traceback_to_the_sentence(place: str) -> None:
    words = ["report", "nowhere"]
    words = ["-v", *words] if place == "before" else [*words, "--verbose"]
    command = [sys.executable, "-m", "dualoptim_diffusion", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert done.stdout == ""
