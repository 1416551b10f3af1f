"""One writer a folder: locks between commands, agreed on by all processes of one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.atomic import end_exchange

if TYPE_CHECKING:
    from accelerate import Accelerator


def any_process(flag: bool, accelerator: "Accelerator") -> bool:
    """Whether any process says so; all of them ask."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum"))


@contextmanager
def locked_run(folder: Path, accelerator: "Accelerator") -> Iterator[None]:
    """Keeps other commands from writing to a run folder while this one does; a killed command leaves it free.

    Raises:
        InputError: on every process, if another command has the lock or nothing can lie beside the folder.
    """
    folder = folder.resolve()
    if not folder.name:
        raise InputError(f"{folder} is the root of all folders; choose another.")
    lock, taken = FileLock(path := folder.with_name(f".{folder.name}.lock"), timeout=0), False
    if accelerator.is_main_process:
        folder.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # says why, where it cannot be made
        try:
            lock.acquire()
        except Timeout:
            taken = True
    if any_process(taken, accelerator):
        raise InputError(f"Another run is writing to {folder}; wait until it has ended, or name another folder.")
    try:
        if accelerator.is_main_process:
            end_exchange(folder)
        accelerator.wait_for_everyone()
        yield
    finally:
        lock.release()
