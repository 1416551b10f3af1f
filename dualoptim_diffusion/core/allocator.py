"""Memory that a step frees is kept for the next one; glibc would give it back to the system and ask for it anew."""

import ctypes
import os
import sys

CHOSEN_BY_USER = ("MALLOC_", "GLIBC_TUNABLES")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
LARGEST = 2**31 - 1  # bytes: a C int


def keep_freed_memory() -> bool:
    """Whether the allocator does so from now on: glibc's, unless the user has chosen its settings.

    A step that clears its gradients first frees and takes hundreds of MB each time (`scripts/benchmarks/unet_step.py`).
    """
    if sys.platform != "linux" or any(name.startswith(CHOSEN_BY_USER) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, LARGEST))
