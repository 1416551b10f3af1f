"""The driver of the loop: progress, log, checkpoints, signals. A resumed run ends bit-identical to an unbroken one."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from dualoptim_diffusion.core.errors import NonFiniteError, Stopped
from dualoptim_diffusion.core.terminal import progress, say
from dualoptim_diffusion.files.atomic import atomic_path, clear_leftovers
from dualoptim_diffusion.files.checkpoint import Restored, load_checkpoint, save_checkpoint
from dualoptim_diffusion.files.locks import any_process
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.optim.dual_optim import DualOptim
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.unlearning.guards import DriftGuard
from dualoptim_diffusion.unlearning.loop import Phase, Record, unlearn

SHOWN = ("FA", "RA", "FD")  # beside the losses on the progress bar


@dataclass(frozen=True)
class Training:
    """What the loop works on.

    Attributes:
        network, optimizers, phases, num_steps, ema, log_cosine: as `unlearn` takes them.
    """

    network: nn.Module
    optimizers: DualOptim
    phases: Sequence[Phase]
    num_steps: int
    ema: EMA | None = None
    log_cosine: bool = True


class Checkpointer:
    """Saves network, optimizers and moving average every so many steps, and resumes from the newest that verifies.

    Args:
        folder: of the checkpoints.
        identity: by name, the hash of each thing that the result depends on; a checkpoint of another is refused.
        every: outer steps between checkpoints.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str], every: int) -> None:
        self._folder, self._identity, self._every = folder, identity, every
        self._read: Restored | None = None

    def read(self) -> int:
        """Finished outer steps of the checkpoint to resume from, 0 without one. `restore` does not read it again.

        Raises:
            InputError: if it is of another recipe, model or mask, or none verifies.
        """
        self._read = self._read or load_checkpoint(self._folder, self._identity)
        return self._read.step if self._read else 0

    def restore(self, training: Training, accelerator: Accelerator) -> int:
        """Puts the state into place; returns its finished outer steps."""
        first_step, restored, self._read = self.read(), self._read, None
        if restored is None:
            return 0
        if accelerator.is_main_process:
            for path in restored.skipped:
                say(f"Skipped {path}; continuing from step {first_step}.")
        training.network.load_state_dict(restored.state["network"])
        training.optimizers.load_state_dict(restored.state["optimizers"])
        if training.ema is not None:
            training.ema.load_state_dict(restored.state["ema"])
        return first_step

    def is_due(self, finished: int, num_steps: int) -> bool:
        """Whether the state is saved after so many outer steps."""
        return finished == num_steps or finished % self._every == 0

    def save(self, finished: int, training: Training) -> None:
        """Writes the state after so many outer steps."""
        state = {"network": training.network.state_dict(), "optimizers": training.optimizers.state_dict()}
        state |= {"ema": training.ema.state_dict()} if training.ema is not None else {}
        save_checkpoint(self._folder, finished, state, self._identity)


class Recorder:
    """Records every step in metrics.jsonl, the tracker and the progress bar. All processes call it alike.

    Args:
        guard: sees every record of the run, those before a resumption too.
    """

    def __init__(
        self, folder: RunFolder, title: str, accelerator: Accelerator, guard: DriftGuard | None = None
    ) -> None:
        self._folder, self._title, self._accelerator, self._guard = folder, title, accelerator, guard
        self.path = folder.place
        self._shown: dict[str, str] = {}

    @contextmanager
    def opened(self, first_step: int, num_steps: int) -> Iterator[None]:
        """Cuts the log to the steps before `first_step`, and shows progress while the block runs.

        Raises:
            InputError: if the log is damaged.
        """
        metrics, accelerator = self._folder.metrics, self._accelerator
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
        if self._guard is not None:
            for record in self._folder.read_metrics(first_step):
                self._guard.see(record)
        accelerator.wait_for_everyone()  # all have read it
        if accelerator.is_main_process:
            self._folder.path.mkdir(parents=True, exist_ok=True)
            clear_leftovers(self._folder.path)
            with atomic_path(metrics) as beside:
                beside.write_text("".join(f"{line}\n" for line in lines[:first_step]), encoding="utf-8")
        quiet = not accelerator.is_main_process
        with progress(total=num_steps, initial=first_step, desc=self._title, disable=quiet) as self._bar:
            yield

    def write(self, finished: int, record: Record, durable: bool) -> None:
        """Takes in the record of a step.

        Args:
            durable: flush it to disk first, for a checkpoint never knows more steps than the log.

        Raises:
            DivergedError: if the guard says so.
        """
        if self._accelerator.is_main_process:
            with self._folder.metrics.open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
                if durable:
                    log.flush()
                    os.fsync(log.fileno())
        if self._guard is not None:
            self._guard.see(record)
        if self._accelerator.is_main_process:
            self._accelerator.log(record, step=finished)  # to the recipe's tracker, if it names one
            new = {key: f"{record[key]:.3g}" for key in record if key.endswith("_loss") or key in SHOWN}
            self._shown |= new
            self._bar.set_postfix(self._shown, refresh=False)
            self._bar.update()


def drive(
    training: Training,
    checkpointer: Checkpointer,
    recorder: Recorder,
    accelerator: Accelerator,
    *,
    stop_after: int | None = None,
    validate: Callable[[int], Record] | None = None,
) -> None:
    """Runs the loop from the latest checkpoint to the end.

    Args:
        stop_after: save and stop after this many outer steps, as a signal would.
        validate: number of finished outer steps -> figures for the record; {} where none are due.

    Raises:
        Stopped: after saving, on SIGINT, SIGTERM or `stop_after`.
        DivergedError: if a loss has grown too far, or weights are not finite when they would be saved.
    """
    num_steps = training.num_steps
    first_step = checkpointer.restore(training, accelerator)
    with recorder.opened(first_step, num_steps), _stop_signals() as signals:

        def on_step(finished: int, record: Record) -> None:
            if validate is not None:
                record |= validate(finished)
            stopping = any_process(bool(signals) or finished == stop_after, accelerator)  # a signal may reach one alone
            saving = stopping or checkpointer.is_due(finished, num_steps)
            recorder.write(finished, record, durable=saving)
            if saving:
                check_finite(training.network, finished)
                if accelerator.is_main_process:
                    checkpointer.save(finished, training)
            if stopping and finished < num_steps:
                accelerator.wait_for_everyone()  # no process leaves before the state is saved
                raise Stopped(f"Stopped after step {finished} of {num_steps}; the state is saved in {recorder.path}.")

        unlearn(
            training.network,
            training.optimizers,
            training.phases,
            num_steps,
            first_step=first_step,
            ema=training.ema,
            accelerator=accelerator,
            on_step=on_step,
            log_cosine=training.log_cosine,
        )
    accelerator.wait_for_everyone()


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
    """Collects SIGINT and SIGTERM; a second one takes effect immediately."""
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
