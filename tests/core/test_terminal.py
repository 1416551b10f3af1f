"""Progress is a bar on a terminal, and a line now and then in a file or a pipe."""

import sys

import pytest

from dualoptim_diffusion.core import terminal


def test_quick_work_says_nothing_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(terminal.progress(range(1000), desc="work")) == list(range(1000))
    assert capsys.readouterr() == ("", "")


def test_long_work_says_how_far_it_is_line_by_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "EVERY", 1e-9)
    for _ in terminal.progress(range(3), desc="work", unit="img"):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert "\r" not in err
    lines = err.splitlines()
    assert all(line.startswith("work: ") for line in lines)
    assert "3/3" in lines[-1]


def test_a_terminal_gets_one_line_that_is_written_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(terminal.progress(range(3), desc="work"))
    assert capsys.readouterr().err.startswith("\rwork:   0%")
