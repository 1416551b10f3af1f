"""Pretraining a denoiser: the loop with a retain phase alone."""

import torch
from accelerate import Accelerator
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.training_config import DiTConfig, PretrainRecipe
from dualoptim_diffusion.data import Batches, ImageSet
from dualoptim_diffusion.data.encoding import training_images
from dualoptim_diffusion.diffusion.randomness import derive_seed
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT, DenoisingModel, DiTModule, UNetModule
from dualoptim_diffusion.models.autoencoder import latent_shape, load_autoencoder
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.optim.plan import OptimizerPlan
from dualoptim_diffusion.unlearning.driver import Checkpointer, Recorder, Training, drive
from dualoptim_diffusion.unlearning.loop import Phase


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
            network = DiTModule(size, channels, out, len(id2label), **architecture).initialise()
            return ConditionalDiT(network, id2label, vae=vae)
        unet = UNetModule(sample_size=size, in_channels=channels, num_classes=len(id2label), **architecture)
        return ConditionalDDPM(unet, id2label)
    except ValueError as error:
        remedy = " data.image_size resizes the images." if "sample_size" in str(error) else ""
        raise InputError(f"The network does not fit the data: {error}{remedy}") from None


def pretrain(
    recipe: PretrainRecipe,
    dataset: ImageSet,
    accelerator: Accelerator,
    folder: RunFolder,
    checkpointer: Checkpointer,
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
        process=(accelerator.process_index, accelerator.num_processes),
    )

    batches.prepare(settings.num_steps)

    def loss(update: int) -> Tensor:
        batch = batches(update)
        return model.loss(batch.x_0, batch.timesteps, batch.noise, batch.dropped_labels).mean()

    ema = None if settings.ema_decay is None else EMA(network, settings.ema_decay, warmup=True)
    phase = Phase("retain", loss, lr_schedule=settings.schedule, clip_norm=settings.clip_norm)
    optimizers = OptimizerPlan.single(settings.optimizer, settings.lr).build(network)
    drive(
        Training(network, optimizers, [phase], settings.num_steps, ema),
        checkpointer,
        Recorder(folder, "pretraining", accelerator),
        accelerator,
        stop_after=stop_after,
    )
    if ema is not None:
        network.load_state_dict(ema.state_dict())
    return model
