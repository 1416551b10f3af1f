"""Freed memory is kept, unless the user has chosen otherwise or the C library is another."""

import subprocess
import sys

import pytest

from dualoptim_diffusion.core import allocator

CODE = """
import resource
from dualoptim_diffusion.core.allocator import keep_freed_memory
if {kept}:
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytearray(64 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def faults(kept: bool) -> int:
    """Pages that the system hands out while 64 MB are taken and freed 20 times, after a first round."""
    done = subprocess.run([sys.executable, "-c", CODE.format(kept=kept)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_is_freed_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    assert faults(kept=True) < 0.01 * faults(kept=False)


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_user_stay(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert not allocator.keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not allocator.keep_freed_memory()
