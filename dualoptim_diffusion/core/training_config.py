"""What the recipes of a base model and of a classifier may say. No torch here."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from dualoptim_diffusion.core.config import DataConfig, DenoiserDataConfig, DenoiserRunConfig, RunConfig, Section
from dualoptim_diffusion.core.schedules import ScheduleName


class UNetConfig(Section):
    """Architecture of a U-Net trained from scratch; the data fix its size, channels and classes."""

    family: Literal["ddpm"] = "ddpm"
    width: int = Field(128, ge=2, le=2**14)
    multipliers: tuple[Annotated[int, Field(ge=1, le=2**10)], ...] = Field((1, 2, 2, 2), min_length=1, max_length=32)
    layers_per_block: int = Field(2, ge=1, le=100)
    attention_resolutions: tuple[int, ...] = (16,)
    mid_attention: bool = True
    dropout: float = Field(0.1, ge=0, lt=1)
    norm_groups: int = Field(32, ge=1)


class DiTConfig(Section):
    """The same of a diffusion transformer, in pixels or in an autoencoder's latents."""

    family: Literal["dit"]
    vae: str | None = None  # an AutoencoderKL: a folder or hub id; null = pixels
    patch_size: int = Field(2, ge=1)
    num_layers: int = Field(28, ge=1, le=1000)
    num_attention_heads: int = Field(16, ge=1, le=1000)
    attention_head_dim: int = Field(72, ge=1, le=2**14)
    learned_variance: bool = True  # twice the channels out, and the loss mse + vb; else mse alone


def _family(values: Any) -> str:
    return str(values.get("family", "ddpm") if isinstance(values, dict) else getattr(values, "family", "ddpm"))


DenoiserConfig = Annotated[
    Annotated[UNetConfig, Tag("ddpm")] | Annotated[DiTConfig, Tag("dit")], Discriminator(_family)
]


class TrainingConfig(Section):
    optimizer: str = "adam"
    num_steps: int = Field(ge=1)
    lr: float = Field(gt=0)
    schedule: ScheduleName = "constant"
    clip_norm: float | None = Field(1.0, gt=0)
    ema_decay: float | None = Field(None, ge=0, lt=1)


class PretrainRecipe(Section):
    run: DenoiserRunConfig = DenoiserRunConfig()
    data: DenoiserDataConfig
    model: DenoiserConfig
    training: TrainingConfig


class ClassifierConfig(Section):
    name: str  # timm's
    image_size: int = Field(ge=8)  # images are resized to this
    pretrained: bool = False  # start from timm's published weights
    checkpoint: str | None = None  # or from a file of weights
    mean: tuple[float, ...] | None = None  # of pixel values in [0, 1]; null = the published weights', else 0.5
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None


class ClassifierTrainingConfig(Section):
    # what it learns to tell: the class, or by how many right angles an image was turned (features for distances)
    task: Literal["classes", "rotations"] = "classes"
    num_steps: int = Field(ge=0)  # 0 = judge with the given weights as they are
    lr: float = Field(1e-3, gt=0, le=1e3)
    weight_decay: float = Field(0.05, ge=0, le=1e3)
    horizontal_flip: bool = False  # of half of the images
    max_shift: int = Field(0, ge=0)  # random shift of the resized image, in pixels
    noise: float = Field(0.0, ge=0)  # of contrast and pixels, relative to the normalised image
    none_share: float = Field(0.0, ge=0)  # images of nothing per real one; above 0 the answer "none of these" exists

    @model_validator(mode="after")
    def _nothing_has_no_angle(self) -> "ClassifierTrainingConfig":
        if self.task == "rotations" and (self.none_share or self.horizontal_flip or not self.num_steps):
            raise ValueError("num_steps above 0, none_share 0 and no horizontal_flip beside task: rotations")
        return self


class ClassifierRecipe(Section):
    run: RunConfig = RunConfig()
    data: DataConfig
    classifier: ClassifierConfig
    training: ClassifierTrainingConfig
