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
from torch import Tensor, nn
from tqdm import tqdm

from dualoptim_diffusion.checkpoint import atomic_path, clear_leftovers, load_checkpoint, save_checkpoint
from dualoptim_diffusion.config import DiTConfig, PretrainRecipe
from dualoptim_diffusion.data import Batches, ImageSet
from dualoptim_diffusion.dual_optim import DualOptim, make_optimizer
from dualoptim_diffusion.ema import EMA
from dualoptim_diffusion.encoding import training_images
from dualoptim_diffusion.errors import InputError, NonFiniteError, Stopped
from dualoptim_diffusion.guards import DriftGuard
from dualoptim_diffusion.metrics import read_metrics
from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT, ConditionalUNet, DenoisingModel, DiT
from dualoptim_diffusion.models.autoencoder import latent_shape, load_autoencoder
from dualoptim_diffusion.provenance import any_process
from dualoptim_diffusion.randomness import derive_seed
from dualoptim_diffusion.unlearn import Phase, Record, unlearn

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


def new_model(recipe: PretrainRecipe, id2label: dict[int, str], shape: tuple[int, ...]) -> DenoisingModel:
    """The recipe's model with fresh weights, for images of the shape [C, H, W].

    Raises:
        InputError: if the architecture does not fit the images.
    """
    torch.manual_seed(derive_seed(recipe.run.seed, "init"))
    channels, size = shape[:2]
    architecture = recipe.model.model_dump(exclude={"family", "learned_variance", "vae"})
    try:
        if isinstance(recipe.model, DiTConfig):
            vae = None if recipe.model.vae is None else load_autoencoder(recipe.model.vae)
            if vae is not None:
                channels, size = latent_shape(vae, channels, size)
            out = channels * (2 if recipe.model.learned_variance else 1)
            network = DiT(size, channels, out, len(id2label), **architecture).initialise()
            return ConditionalDiT(network, id2label, vae=vae)
        unet = ConditionalUNet(sample_size=size, in_channels=channels, num_classes=len(id2label), **architecture)
        return ConditionalDDPM(unet, id2label)
    except ValueError as error:
        remedy = " data.image_size resizes the images." if "sample_size" in str(error) else ""
        raise InputError(f"The network does not fit the data: {error}{remedy}") from None


def pretrain(
    recipe: PretrainRecipe,
    dataset: ImageSet,
    accelerator: Accelerator,
    folder: Path,
    identity: Mapping[str, str],
    stop_after: int | None = None,
) -> DenoisingModel:
    """A denoiser trained from scratch on `dataset`: the loop with a retain phase alone; averaged weights if asked."""
    settings, seed = recipe.training, recipe.run.seed
    model = new_model(recipe, dataset.id2label, tuple(dataset.images.shape[1:]))
    network = model.network
    if recipe.run.micro_batch_size is not None:
        model.limit_batches(recipe.run.micro_batch_size)
    model.prepare(accelerator, recipe.run.precision, recipe.run.channels_last, recipe.run.compile)
    network.train()
    batches = Batches(
        training_images(dataset, recipe.data, model, accelerator),
        model,
        seed=seed,
        phase="pretrain",
        batch_size=recipe.data.batch_size,
        horizontal_flip=recipe.data.horizontal_flip,
        device=accelerator.device,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )

    batches.prepare(settings.num_steps)

    def loss(update: int) -> Tensor:
        batch = batches(update)
        return model.loss(batch.x_0, batch.timesteps, batch.noise, batch.dropped_labels).mean()

    optimizer = make_optimizer(settings.optimizer, network.parameters(), settings.lr)
    ema = None if settings.ema_decay is None else EMA(network, settings.ema_decay, warmup=True)
    phase = Phase("retain", loss, lr_schedule=settings.schedule, clip_norm=settings.clip_norm)
    run_phases(
        network, DualOptim(optimizer, optimizer), [phase], settings.num_steps,
        folder=folder, identity=identity, title="pretraining", accelerator=accelerator, ema=ema, stop_after=stop_after,
        save_every=recipe.run.checkpoint_every,
    )  # fmt: skip
    if ema is not None:
        network.load_state_dict(ema.state_dict())
    return model
