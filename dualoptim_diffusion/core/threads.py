"""How OpenMP's threads wait, chosen before torch is loaded. It changes the time of a step, not its bits."""

import os
from pathlib import Path
from time import sleep

CHOSEN_BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SAMPLES, PAUSE = 3, 0.01  # seconds between them


def choose_wait_policy(load: Path = Path("/proc/loadavg")) -> None:
    """Lets idle threads sleep if this machine has more work than cores; else they spin, which is OpenMP's default.

    On two cores a step of the demo's network takes 3.9 times as long beside one busy process, and 2.2 times with
    sleeping threads; alone, sleeping threads take 1.6 times as long as spinning ones (`scripts/benchmarks/threads.py`).
    """
    if any(name in os.environ for name in CHOSEN_BY_USER):
        return
    own, others = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, others_running(load)
    if (chosen := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():  # torchrun gives each process one
        own = min(own, int(chosen))
    if others >= 0.5 and own + others > (os.cpu_count() or 1):
        os.environ["OMP_WAIT_POLICY"] = "passive"


def others_running(load: Path) -> float:
    """Mean number of other threads that run or wait for a core; 0 where the system does not tell.

    Args:
        load: Linux's file; its fourth word is RUNNING/ALL.
    """
    found = []
    try:
        for _ in range(SAMPLES):
            found.append(int(load.read_text(encoding="ascii").split()[3].partition("/")[0]) - 1)
            sleep(PAUSE)
    except (OSError, ValueError, IndexError):
        return 0.0
    return sum(found) / SAMPLES
