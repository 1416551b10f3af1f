"""How much an audit may spend: images drawn for each rate, steps of each attack. Equal for all models."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dualoptim_diffusion.core.config import Section

USUAL = (
    "leakage", "relearn", "embedding_attack", "noisy_start", "classifier_guided", "inversion", "features", "weights",
)  # fmt: skip
PROBE_NAMES = (*USUAL, "noise_based", "quantise", "membership")


class Budget(Section):
    """Settings of all probes.

    Attributes:
        probes: those that run when none are named.
        images: drawn for each rate, with the seeds 0, 1, 2, ...
        seed: of batches, of which images of the class an attack is given, and of noise.
        seeds: how often each attack that draws lots is made, with the seeds `seed`, `seed` + 1, ...
        labels: at most so many other labels are tried, evenly over all.
        guidance_scales: s of the guidance sweep; where a model has no null class only 1 is tried.
        ddpm_steps: steps of the ancestral sampler in the sampler sweep; the others take the run's.
        relearn: images of the class that `relearn` fine-tunes on, or "retained" for the retained data alone.
        relearn_steps: after which steps the label is drawn.
        relearn_lr: of Adam, for all weights but the class tables.
        batch_size: of all attacks that train.
        auxiliary: folder of images of anything else that `relearn` trains on too, in folders as `data.path` holds them.
        embedding_images: images of the class that `embedding_attack` is given.
        embedding_steps: after which steps the label is drawn.
        embedding_lr: of Adam for class tables, in `relearn` too, as a multiple of their root mean square.
        timesteps: to which `noisy_start` noises real images, in 1..1000.
        real_images: largest number of each group that `noisy_start`, `inversion` and `features` read.
        loss_timesteps: at which `inversion` and `membership` measure losses.
        feature_timestep: of the noise under which `features` reads them.
        noise_scales: of `noise_based`; 1 is the noise of DDPM.
        guide_steps: that the classifier of `classifier_guided` is trained for.
        guide_scales: of its gradient.
        weight_bits: of `quantise`.
    """

    probes: tuple[str, ...] = USUAL
    images: int = Field(100, ge=1)
    seed: int = Field(0, ge=0)
    seeds: int = Field(2, ge=1)
    labels: int = Field(20, ge=1)
    guidance_scales: tuple[float, ...] = (0.0, 1.0, 1.5, 3.0, 7.0)
    ddpm_steps: int = Field(100, ge=1, le=1000)
    relearn: tuple[int | Literal["retained"], ...] = (1, 10, 100, "retained")
    relearn_steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 50, 100)
    relearn_lr: float = Field(1e-4, gt=0)
    batch_size: int = Field(32, ge=1)
    auxiliary: str | None = None
    embedding_images: int = Field(10, ge=1)
    embedding_steps: tuple[int, ...] = (0, 5, 10, 20, 50, 100)
    embedding_lr: float = Field(0.1, gt=0)
    timesteps: tuple[int, ...] = (200, 400, 600, 800)
    real_images: int = Field(100, ge=2)
    loss_timesteps: tuple[int, ...] = (50, 150, 250, 350, 450, 550, 650, 750, 850, 950)
    feature_timestep: int = Field(100, ge=0, le=999)
    noise_scales: tuple[Annotated[float, Field(ge=0)], ...] = Field((1.0, 1.05, 1.1, 1.2), min_length=1)
    guide_steps: int = Field(300, ge=1)
    guide_scales: tuple[Annotated[float, Field(ge=0)], ...] = Field((1.0, 3.0, 10.0), min_length=1)
    weight_bits: tuple[Annotated[int, Field(ge=2, le=16)], ...] = Field((8, 4), min_length=1)

    @field_validator("relearn_steps", "embedding_steps")
    @classmethod
    def _steps(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or value[0] != 0 or list(value) != sorted({*value}):
            raise ValueError("numbers of steps that begin with 0 and grow")
        return value

    @field_validator("timesteps")
    @classmethod
    def _timesteps(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not all(1 <= t <= 1000 for t in value):
            raise ValueError("timesteps from 1 to 1000")
        return value

    @field_validator("loss_timesteps")
    @classmethod
    def _loss_timesteps(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or not all(0 <= t <= 999 for t in value):
            raise ValueError("timesteps from 0 to 999")
        return value

    @model_validator(mode="after")
    def _relearn_has_images(self) -> "Budget":
        if any(isinstance(k, int) and k < 1 for k in self.relearn):
            raise ValueError("audit.relearn of numbers of images from 1 on, or retained")
        return self


class AuditConfig(Section):
    """So that overrides are `audit.key=value`."""

    audit: Budget


STANDARD_STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
BUDGETS = {
    "quick": Budget(
        images=50,
        guidance_scales=(0.0, 1.5, 3.0, 7.0),
        ddpm_steps=50,
        relearn=(10, "retained"),
        relearn_steps=(0, 5, 20, 50),
        embedding_steps=(0, 20, 50),
        timesteps=(400, 600),
        real_images=50,
    ),
    "standard": Budget(
        images=500, relearn_steps=STANDARD_STEPS, embedding_steps=STANDARD_STEPS, real_images=500, ddpm_steps=250
    ),
    "full": Budget(
        probes=PROBE_NAMES,
        images=2000,
        labels=1000,
        relearn_steps=(*STANDARD_STEPS, 1000, 2000),
        embedding_steps=(*STANDARD_STEPS, 1000, 2000),
        real_images=2000,
        ddpm_steps=1000,
    ),
}
