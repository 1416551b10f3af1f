"""What audits of a tiny run share."""

from pathlib import Path

import pytest
import torch

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel
from dualoptim_diffusion.core.budget import Budget
from dualoptim_diffusion.core.config import DataConfig, SamplingConfig
from dualoptim_diffusion.data import load_dataset, split
from dualoptim_diffusion.models import model_sha256
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.runs.evaluate import open_classifier
from dualoptim_diffusion.runs.finished import open_run
from dualoptim_diffusion.runs.obtain import make_accelerator

THREE = 3


@pytest.fixture(scope="module")
def budget() -> Budget:
    return Budget(
        images=4, relearn=(2, "retained"), relearn_steps=(0, 2), embedding_steps=(0, 3), batch_size=4, real_images=6,
        timesteps=(400,), loss_timesteps=(100,), guidance_scales=(0.0, 1.0), ddpm_steps=3, labels=3,
        guide_steps=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def scene(finished: Path, budget: Budget) -> AuditContext:
    accelerator = make_accelerator("cpu")
    model = load_model(finished / "model")
    train, held_out = load_dataset(DataConfig(name="digits"))
    forget_set, retain_set = split(train, [THREE])
    classifier = open_classifier(open_run(finished))
    return AuditContext(
        classifier=classifier,
        forget_classes=(THREE,),
        judged_as=(THREE,),
        labels=train.id2label,
        forget_set=forget_set,
        retain_set=retain_set,
        train=train,
        held_out=held_out,
        settings=SamplingConfig(num_inference_steps=3, batch_size=4),
        budget=budget,
        original=load_model(finished / "model"),
        mask={name: torch.ones_like(p, dtype=torch.bool) for name, p in model.network.named_parameters()},
        accelerator=accelerator,
        horizontal_flip=False,
    )


@pytest.fixture
def subject(finished: Path) -> AuditedModel:
    model = load_model(finished / "model")
    return AuditedModel("unlearned", model, model_sha256(model))
