"""Training: the resumable driver around the loop, and pretraining of a denoiser."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from dualoptim_diffusion.core.errors import NonFiniteError, Stopped
from dualoptim_diffusion.files.atomic import atomic_path, clear_leftovers
from dualoptim_diffusion.files.checkpoint import load_checkpoint, save_checkpoint
from dualoptim_diffusion.files.locks import any_process
from dualoptim_diffusion.files.metrics import read_metrics
from dualoptim_diffusion.optim.dual_optim import DualOptim
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.unlearning.guards import DriftGuard
from dualoptim_diffusion.unlearning.loop import Phase, Record, unlearn

LOOKED_AT = ("FA", "RA", "FD")  # what a look adds to a record


def run_phases(
    network: nn.Module,
    optimizers: DualOptim,
    phases: Sequence[Phase],
    num_steps: int,
    *,
    folder: Path,
    identity: Mapping[str, str],
    title: str,
    accelerator: Accelerator,
    ema: EMA | None = None,
    stop_after: int | None = None,
    look: Callable[[int], Record] | None = None,
    look_every: int | None = None,
    log_cosine: bool = True,
    save_every: int = 500,
    guard: DriftGuard | None = None,
) -> None:
    """Runs the loop with a progress bar, `folder/metrics.jsonl` and checkpoints; goes on from the latest checkpoint.

    Args:
        identity: by name, the hash of each thing that the result depends on; a checkpoint of another is refused.
        save_every: outer steps between checkpoints.
        guard: sees every record of the run, those before a resumption too.
        stop_after: save and stop after this many outer steps, as a signal would.
        log_cosine: record the cosine between the phases' gradients.
        look: figures of the weights after so many steps, added to the record every `look_every` steps and at the end.

    Raises:
        Stopped: after saving, on SIGINT, SIGTERM or `stop_after`.
        DivergedError: if the guard says so, or weights are not finite when they would be saved.
    """
    first_step = _restore(folder / "checkpoints", identity, network, optimizers, ema, accelerator)
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    if guard is not None:
        for record in read_metrics(folder, first_step):
            guard.see(record)
    accelerator.wait_for_everyone()  # all have read it
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
        with atomic_path(metrics) as beside:
            beside.write_text("".join(f"{line}\n" for line in lines[:first_step]), encoding="utf-8")

    with (
        tqdm(total=num_steps, initial=first_step, desc=title, disable=not accelerator.is_main_process) as bar,
        _stop_signals() as signals,
    ):
        shown: dict[str, str] = {}

        def on_step(finished: int, record: Record) -> None:
            if look is not None and look_every is not None and (finished % look_every == 0 or finished == num_steps):
                record |= look(finished)
            stopping = any_process(bool(signals) or finished == stop_after, accelerator)  # a signal may reach one alone
            saving = stopping or finished == num_steps or finished % save_every == 0
            if accelerator.is_main_process:
                with metrics.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(record) + "\n")
                    if saving:  # a checkpoint never knows more steps than the log
                        log.flush()
                        os.fsync(log.fileno())
            if guard is not None:
                guard.see(record)
            if saving:
                check_finite(network, finished)
            if saving and accelerator.is_main_process:
                state = {"network": network.state_dict(), "optimizers": optimizers.state_dict()}
                state |= {"ema": ema.state_dict()} if ema is not None else {}
                save_checkpoint(folder / "checkpoints", finished, state, identity)
            if accelerator.is_main_process:
                accelerator.log(record, step=finished)  # to the recipe's tracker, if it names one
                shown.update({key: f"{record[key]:.3g}" for key in record if key.endswith("_loss") or key in LOOKED_AT})
                bar.set_postfix(shown, refresh=False)
                bar.update()
            if stopping and finished < num_steps:
                accelerator.wait_for_everyone()  # nobody leaves before the state is saved
                raise Stopped(f"Stopped after step {finished} of {num_steps}; the state is saved in {folder}.")

        unlearn(
            network, optimizers, phases, num_steps,
            first_step=first_step, ema=ema, accelerator=accelerator, on_step=on_step, log_cosine=log_cosine,
        )  # fmt: skip
    accelerator.wait_for_everyone()


def _restore(
    folder: Path,
    identity: Mapping[str, str],
    network: nn.Module,
    optimizers: DualOptim,
    ema: EMA | None,
    accelerator: Accelerator,
) -> int:
    """Finished outer steps of the checkpoint that goes on, put into place; 0 where there is none."""
    if (restored := load_checkpoint(folder, identity)) is None:
        return 0
    if accelerator.is_main_process:
        for path in restored.skipped:
            tqdm.write(f"Skipped {path}; going on from step {restored.step}.", file=sys.stderr)
    network.load_state_dict(restored.state["network"])
    optimizers.load_state_dict(restored.state["optimizers"])
    if ema is not None:
        ema.load_state_dict(restored.state["ema"])
    return restored.step


def check_finite(network: nn.Module, finished: int) -> None:
    """Raises:
    NonFiniteError: if a weight is no finite number.
    """
    finite = torch.stack([p.isfinite().all() for p in network.parameters()])
    if not finite.all():
        name = [name for name, _ in network.named_parameters()][int((~finite).nonzero()[0])]
        raise NonFiniteError(
            f"After step {finished - 1} the weights {name} are not finite and were not saved. Lower the learning rate."
        )


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM; a second one acts at once."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        previous[number] = signal.getsignal(number)
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
