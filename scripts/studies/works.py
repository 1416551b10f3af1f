"""The kinds of work that kill_and_resume.py kills: commands that continue when they are run again."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import toy

SHORT = (  # a whole run in half a minute, so that many can be killed
    "method.num_steps=40", "run.checkpoint_every=5", "data.batch_size=32", "sampling.num_inference_steps=10",
    "sampling.seeds=0-39", "sampling.batch_size=20", "evaluation.protocol=seeds", "run.device=cpu",
)  # fmt: skip
PYTHON = (sys.executable, "-m")
TWO = (*PYTHON, "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
FORGET = ("dualoptim_diffusion", "forget", "digits_sfron_dual", *SHORT, "--class", "three", "--out", "run", "--resume")
PRETRAIN = (
    "dualoptim_diffusion", "pretrain", "digits_pretrain", "training.num_steps=60", "run.checkpoint_every=5",
    "run.device=cpu",
)  # fmt: skip
TABLE = (
    "--recipe-family", "digits", "--methods", "sfron_dual", "--classes", "three", "--quick", "--jobs", "1",
    "--runs", "runs", "--out", "out", *SHORT,
)  # fmt: skip
Stages = tuple[tuple[str, str], ...]  # what a folder holds, and how far the work has come then; the furthest first
TRAINING: Stages = (("checkpoints/latest", "after a checkpoint"), (".", "before a checkpoint"))
RUN: Stages = (("results.json", "at the report"), ("model", "while sampling or scoring"), *TRAINING)
DRAWING: Stages = (("png", "while writing PNG files"), ("*.safetensors", "after a shard"), (".", "before a shard"))


@dataclass(frozen=True)
class Work:
    """What is killed: a command that continues when it is run again in the same place.

    Attributes:
        command: started in a folder of the trial, to which its relative paths are.
        folder: what it fills, a pattern below that folder.
        stages: by what it holds, how far the work has come.
        runs: how many are killed.
        jobs: how many of them at once, if it matters.
        environment: variables beside those of this process.
    """

    name: str
    command: tuple[str, ...]
    folder: str
    stages: Stages
    runs: int
    jobs: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def works(root: Path) -> list[Work]:
    """All kinds; `root` holds what they start from."""
    sample = (*PYTHON, "dualoptim_diffusion", "sample", str(root / "first" / "run"), "--seeds", "0-59", "--steps", "20")
    encode = (
        *PYTHON, "dualoptim_diffusion", "encode", "digits_dit_sfron_dual", "data.name=image_folder",
        f"data.path={root / 'photos'}", "data.horizontal_flip=true", "model.pretrain=null",
        f"model.path={root / 'latent'}", "data.latents=latents", "run.device=cpu",
    )  # fmt: skip
    table = (sys.executable, str(Path(__file__).with_name("reproduce_table2.py")), *TABLE)
    at_table = (("results.json", "at the report or the table"), *RUN[1:])
    return [
        Work(
            "pretraining", (*PYTHON, *PRETRAIN), "cache/models/*[0-9a-f]",  # a hash, and not its lock
            (("model", "with its model saved"), *TRAINING), 5, environment={"DUALOPTIM_CACHE": "cache"},
        ),
        Work("encoding latents", encode, "latents", DRAWING[1:], 5),
        Work("the table of methods", table, "runs/quick/digits/sfron_dual/three-seed0", at_table, 3),
        Work("sampling", (*sample, "--out", "samples"), "samples", DRAWING, 10),
        Work("forgetting", (*PYTHON, *FORGET), "run", RUN, 30),
        Work("forgetting in two processes", (*TWO, *FORGET), "run", RUN, 5, jobs=1),
    ]  # fmt: skip


def toy_work(root: Path) -> Work:
    """Pretraining of the tiny model, killed once."""
    toy.write_recipes(root)
    command = (*PYTHON, "dualoptim_diffusion", "pretrain", str(root / "pretrain.yaml"), "run.checkpoint_every=2")
    stages = (("model", "with its model saved"), *TRAINING)
    return Work("pretraining", command, "cache/models/*[0-9a-f]", stages, 1, environment={"DUALOPTIM_CACHE": "cache"})


def prepare(root: Path) -> None:
    """Makes what the works start from: base model, judge and mask in the cache, a run, a latent model, its images."""
    import numpy as np
    import torch
    from diffusers import AutoencoderKL
    from PIL import Image

    from dualoptim_diffusion.models import ConditionalDiT, DiTModule

    (root / "first").mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run((*PYTHON, *FORGET), cwd=root / "first", env=environment, check=True, stdout=subprocess.DEVNULL)
    source, names = np.random.default_rng(0), [f"class {i}" for i in range(5)]
    for i in range(2560):  # five shards of latents, mirror images too
        path = root / "photos" / ("test" if i < 5 else "train") / names[i % 5] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**blocks, block_out_channels=(32, 64), latent_channels=4, norm_num_groups=8, sample_size=32)
    network = DiTModule(16, 4, 4, len(names), 2, 2, 8, 2).initialise()
    ConditionalDiT(network, dict(enumerate(names)), vae=vae).save(root / "latent")
