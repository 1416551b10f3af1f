"""How OpenMP's threads wait: as the user says, else by what else runs on the machine."""

import os
from pathlib import Path

import pytest

from dualoptim_diffusion.core import threads


def policy(monkeypatch: pytest.MonkeyPatch, load: Path, cores: int = 2, own: int = 2, **chosen: str) -> str | None:
    for name in threads.CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(own)), raising=False)
    threads.choose_wait_policy(load)
    found = os.environ.get("OMP_WAIT_POLICY")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    return found


def loaded(folder: Path, running: str) -> Path:
    (folder / "loadavg").write_text(f"0.31 0.20 0.11 {running}/512 4711\n")
    return folder / "loadavg"


@pytest.mark.parametrize(
    ("running", "cores", "own", "expected"),
    [("1", 2, 2, None), ("2", 2, 2, "passive"), ("9", 64, 2, None), ("64", 64, 2, "passive"), ("?", 2, 2, None)],
    ids=["alone", "one other on two cores", "cores are left", "no core is left", "damaged"],
)
def test_threads_sleep_where_there_is_more_work_than_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, running: str, cores: int, own: int, expected: str | None
) -> None:
    assert policy(monkeypatch, loaded(tmp_path, running), cores, own) == expected


def test_the_users_own_setting_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    busy = loaded(tmp_path, "9")
    assert policy(monkeypatch, busy, OMP_WAIT_POLICY="active") == "active"
    assert policy(monkeypatch, busy, GOMP_SPINCOUNT="100") is None


def test_processes_of_one_thread_each_do_not_crowd_one_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert policy(monkeypatch, loaded(tmp_path, "2"), OMP_NUM_THREADS="1") is None
    assert policy(monkeypatch, loaded(tmp_path, "3"), OMP_NUM_THREADS="1") == "passive"


def test_a_system_that_does_not_tell_counts_as_idle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert policy(monkeypatch, tmp_path / "nothing") is None
