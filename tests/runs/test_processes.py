"""Several processes: they meet, and give the answer of one."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.runs.obtain import make_accelerator

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from benchmarks import processes


@pytest.mark.slow  # the forgetting below says it too
def test_two_processes_are_two_without_a_gpu_too() -> None:
    if torch.cuda.is_available() and torch.cuda.device_count() < 2:
        pytest.skip("two processes need two GPUs")
    code = "from dualoptim_diffusion.runs.obtain import make_accelerator as m; a = m('auto'); a.print(a.num_processes)"
    options = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    done = subprocess.run([sys.executable, *options, sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "2", done.stderr[-3000:]


def test_processes_that_do_not_meet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dualoptim_diffusion.runs.obtain.Accelerator", lambda **_: SimpleNamespace(num_processes=1))
    launched = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="2 processes were launched, but this one found 1"):
        make_accelerator("cpu")


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_forgetting_is_the_same_in_float64_and_images_are_bit_equal(count: int, tmp_path: Path) -> None:
    if 0 < torch.cuda.device_count() < count:
        pytest.skip(f"{count} processes need {count} GPUs")
    rows = processes.Row(1, launched=False), processes.Row(count)
    _, row = (processes.measure(tmp_path, count == 2, lambda: 3600.0, part) for part in rows)
    assert 0 < row["float64"] < 1e-9  # 0 would mean that the sums were not taken in parts
    assert 0 < row["float32"] < 1e-4
    assert row["shards_equal"] == row["shards"] > 0
