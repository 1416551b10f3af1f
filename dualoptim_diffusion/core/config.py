"""What a recipe may say: frozen sections with types, ranges and defaults. No torch here."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dualoptim_diffusion.core.places import is_place
from dualoptim_diffusion.core.plugins import is_plugin, registered
from dualoptim_diffusion.core.schedules import ScheduleName


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _printable(cls, value: Any) -> Any:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("text without the character of code 0")
        return value


def _resolved(path: str) -> str:
    """The absolute path.

    Raises:
        ValueError: if there can be no such path.
    """
    try:
        return str(Path(path).expanduser().resolve())
    except (OSError, RuntimeError) as error:
        raise ValueError(f"a path that can be followed ({error})") from None


class RunConfig(Section):
    seed: int = Field(0, ge=0)
    device: str = "auto"  # auto = cuda, mps, cpu


class DenoiserRunConfig(RunConfig):
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: in the passes alone; weights and optimizers stay fp32
    micro_batch_size: int | None = Field(None, ge=1)  # largest micro-batch; null = the whole batch
    channels_last: bool = False  # memory order of the convolutions; faster in bf16 on a GPU
    compile: bool = False  # the network, by torch.compile; in sampling too
    checkpoint_every: int = Field(500, ge=1)  # outer steps after which the state is saved


class StopWhen(Section):
    """Largest ratio of a loss, averaged over 20 steps, to its first 20 before the run stops; null = never stop."""

    # of its magnitude, which ascent multiplies; divergence multiplies it by far more
    forget_factor: float | None = Field(1000.0, gt=1)
    retain_factor: float | None = Field(5.0, gt=1)

    @property
    def factors(self) -> dict[str, float]:
        """Those that bound a loss, by its name in the log."""
        named = {"forget_loss": self.forget_factor, "retain_loss": self.retain_factor}
        return {name: factor for name, factor in named.items() if factor is not None}


class ForgetRunConfig(DenoiserRunConfig):
    checkpoint_every: int = Field(100, ge=1)  # forgetting takes fewer steps than pretraining
    stop_when: StopWhen = StopWhen()
    tracker: Literal["tensorboard", "wandb"] | None = None  # beside metrics.jsonl
    gradient_checkpointing: bool = False  # compute activations twice and keep few of them: slower, in less memory
    log_cosine: bool = True  # of the two phases' gradients; holds one more set of gradients


DATA_SETS = ("digits", "cifar10", "image_folder", "imagenet", "replay")


class DataConfig(Section):
    name: str  # of DATA_SETS, or a function of another package (core.plugins)
    # holds train/CLASS/* (imagenet: train/WNID/*), or is a CSV of files and labels; replay: what `sample --latents`
    # drew; cifar10: its archive or null
    path: str | None = None
    image_size: int | None = Field(None, ge=1)  # images are resized to this side
    batch_size: int = Field(128, ge=1)  # of the global batch
    skip_damaged: bool = False  # go without images that cannot be read, in place of stopping at the first
    channels: Literal[1, 3] | None = None  # grey or colour; null = grey where all images are
    # that transparent images are laid on: a name or #rrggbb
    background: str = Field("white", pattern=r"^(white|black|gr[ae]y|#[0-9a-fA-F]{6})$")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATA_SETS and not is_plugin("datasets", name):
            others = sorted(registered("datasets"))
            raise ValueError(" or ".join(map(repr, [*DATA_SETS, *others])))
        return name

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return None if path is None else _resolved(path)

    @model_validator(mode="after")
    def _has_folder(self) -> "DataConfig":
        if self.name == "image_folder" and self.path is None:
            raise ValueError("data.path, a folder that holds train/CLASS/ with images, with name image_folder")
        of_files = {"skip_damaged", "channels", "background"} & self.model_fields_set
        if self.name not in ("image_folder", "imagenet") and any(
            getattr(self, key) != type(self).model_fields[key].default for key in of_files
        ):
            raise ValueError(f"data.name image_folder or imagenet, which read files, beside {min(of_files)}")
        if self.name == "replay" and self.path is None:
            raise ValueError("data.path, a folder that `dualoptim sample MODEL --latents` has filled, with name replay")
        return self


class DenoiserDataConfig(DataConfig):
    horizontal_flip: bool = False
    latents: str = (
        "keep"  # of a model with an autoencoder: keep (in the cache), each_step (never cached), or a folder for them
    )

    @field_validator("latents")
    @classmethod
    def _absolute_folder(cls, latents: str) -> str:
        return latents if latents in ("keep", "each_step") else _resolved(latents)


class ForgetDataConfig(DenoiserDataConfig):
    forget_classes: tuple[str, ...] = ()  # --class adds to these


class ModelConfig(Section):
    family: Literal["ddpm", "dit"] | None = None  # what the model must be; null = whatever it is
    path: str | None = None  # a pipeline folder
    pretrain: str | None = None  # the recipe that makes one where no path is given
    null_class: int | None = None  # row of a stock UNet2DModel's class table that means no class

    @model_validator(mode="after")
    def _has_source(self) -> "ModelConfig":
        if self.path is None and self.pretrain is None:
            raise ValueError("path (a pipeline folder) or pretrain (a recipe) to be given")
        return self


class FisherRatioMask(Section):
    """1 where F_forget / F_retain >= threshold (SFRon)."""

    kind: Literal["fisher_ratio"]
    threshold: float = Field(3.0, gt=0)  # gamma
    # published: of the guided loss, clipped; plain: of the loss; class_pure: of single classes, cached
    estimator: Literal["published", "plain", "class_pure"] = "published"
    batch_size: int = Field(128, ge=1)
    num_batches: int | None = Field(None, ge=1)  # of each set (class_pure: of each class); null = one pass


class TopFractionMask(Section):
    """1 on the largest summed gradients of the forget set (SalUn)."""

    kind: Literal["top_fraction"]
    top_fraction: float = Field(0.5, gt=0, le=1)
    estimator: Literal["published", "plain"] = "published"
    batch_size: int = Field(128, ge=1)
    num_batches: int | None = Field(None, ge=1)


MaskConfig = Annotated[FisherRatioMask | TopFractionMask, Field(discriminator="kind")]


class MethodConfig(Section):
    """What a method may read; keys that the chosen one does not read are dropped from the resolved recipe."""

    name: str
    update: Literal["alternate", "joint"] = "alternate"
    num_steps: int = Field(150, ge=1)  # T_out
    num_steps_per: Literal["run", "class"] = "run"  # class: times the number of forgotten classes
    forget_steps: int = Field(1, ge=1)  # T_f
    retain_steps: int = Field(1, ge=0)  # T_r
    forget_lr: float = Field(1e-4, ge=0)
    retain_lr: float = Field(1e-4, ge=0)
    forget_weight: float = Field(1.0, ge=0)  # alpha
    forget_weight_schedule: ScheduleName = "cosine"
    retain_weight: float = Field(1e-3, ge=0)  # of the retain loss in a joint update
    loss_exponent: float = Field(0.5, ge=0)  # lambda
    forget_ceiling: float | None = Field(None, gt=0)  # times the base model's loss without a label: ascent ends there
    negative_guidance: float = Field(0.0, ge=0)  # eta of ESD: how far beyond no label, away from the class
    replay_per_class: int = Field(500, ge=1)  # images the base model draws of each retained class
    fisher_timesteps: int | None = Field(None, ge=1)  # random ones for each replay image; null = all
    penalty_weight: float = Field(10.0, ge=0)  # lambda of elastic weight consolidation
    forget_schedule: ScheduleName = "constant"  # of the learning rate
    retain_schedule: ScheduleName = "constant"
    clip_norm: float | None = Field(1.0, gt=0)
    clip_retain: bool = True  # the retain phase's gradients too; published DiT code clips the forget phase alone
    ema_decay: float | None = Field(None, ge=0, lt=1)
    mask: MaskConfig | None = None
    options: dict[str, Any] = {}  # settings of a method of another package


ADAMS = ("adam", "adamw")  # of these there are compact, 8-bit and fused forms; equal at weight decay 0
Mode = Literal["dual", "shared", "dual_plus", "dual_m", "dual_v"]
State = Literal["full", "compact", "8bit"]
STATES: dict[str, dict[str, tuple[State, ...]]] = {  # that a mode allows in each phase
    "dual": {"forget": ("full", "compact", "8bit"), "retain": ("full", "compact", "8bit")},
    "shared": {"forget": ("full",), "retain": ("full", "compact", "8bit")},  # one optimizer: the retain phase's
}
LINKED = {"forget": ("full",), "retain": ("full",)}  # of the other modes, which are pairs of Adams of their own


class OptimizersConfig(Section):
    """How many optimizers take the steps, and which; modes other than dual and shared are pairs of Adams."""

    mode: Mode = "dual"
    forget: str = "adam"
    retain: str = "adam"
    forget_momentum: float | None = Field(None, ge=0, lt=1)  # momentum or first beta; null = the optimizer's default
    retain_momentum: float | None = Field(None, ge=0, lt=1)
    # compact: an Adam's moments for the weights under the mask alone; 8bit: for all, a byte each, by bitsandbytes
    forget_state: State = "full"
    retain_state: State = "full"  # compact where the method masks the retain gradients too
    fused: bool = False  # Adams step in one kernel: faster, and the same up to rounding

    @model_validator(mode="after")
    def _mode_allows(self) -> "OptimizersConfig":
        names = {"forget": self.forget, "retain": self.retain}
        if self.mode not in STATES and set(names.values()) != {"adam"}:
            raise ValueError(f"adam for both phases: mode {self.mode} is a pair of Adams")
        for phase, states in STATES.get(self.mode, LINKED).items():
            state = getattr(self, f"{phase}_state")
            if state not in states:
                modes = [mode for mode, allowed in STATES.items() if state in allowed[phase]]
                raise ValueError(f"mode {' or '.join(modes)} with {phase}_state {state}, not {self.mode}")
            if state != "full" and names[phase] not in ADAMS:
                raise ValueError(f"{phase} to be {' or '.join(ADAMS)} with {phase}_state {state}")
        if self.fused and not (self.mode in STATES and {*names.values()} <= {*ADAMS}):
            raise ValueError("mode dual or shared, with adam or adamw for both phases, when fused")
        return self


class SamplingConfig(Section):
    scheduler: Literal["ddpm", "ddim", "dpmsolver++"] = "ddim"
    num_inference_steps: int = Field(50, ge=1, le=1000)
    guidance_scale: float = Field(1.0, ge=0)  # s; the papers' w is s - 1
    guidance_channels: int | None = Field(None, ge=1)  # the first so many are guided; null = all
    seeds: str = "0-499"  # of each class
    batch_size: int = Field(250, ge=1)  # images per batch; their bits depend on it


class EvaluationConfig(Section):
    protocol: str = "standard"
    classifier: str  # a recipe, or a folder written by train-classifier
    min_accuracy: float = Field(0.6, ge=0, le=1)  # of the classifier on real images of each forgotten class
    # for distances: inception, dinov2, classifier, timm's name, or a recipe or folder of train-classifier
    features: str = "inception"
    features_weights: str | None = None  # a file of weights for them; null = the published ones
    every: int | None = Field(None, ge=1)  # outer steps between quick evaluations; null = none
    keep: Literal["last", "best"] = "last"  # which weights the run ends with; best needs quick evaluations

    @property
    def features_are_trained(self) -> bool:
        """Whether the features are those of a network that a recipe of train-classifier makes, or has made."""
        if self.features in ("inception", "dinov2", "classifier"):  # whatever folders there are
            return False
        return self.features.endswith((".yaml", ".yml")) or is_place(self.features)

    @model_validator(mode="after")
    def _best_needs_every(self) -> "EvaluationConfig":
        if self.keep == "best" and self.every is None:
            raise ValueError("evaluation.every (a number of steps) beside keep: best")
        return self


class ForgetRecipe(Section):
    run: ForgetRunConfig = ForgetRunConfig()
    data: ForgetDataConfig
    model: ModelConfig
    method: MethodConfig
    optimizers: OptimizersConfig = OptimizersConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig
