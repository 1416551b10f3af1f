"""Replay: images that a model drew of its classes, and their latents, as a data set for those who have no other.

`dualoptim sample MODEL --latents` draws them; the folder's manifest names model and classes.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from dualoptim_diffusion.core.classes import usable_names
from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.data.stored import Shard, ShardRows
from dualoptim_diffusion.files.json_files import read_json
from dualoptim_diffusion.files.shards import MANIFEST, SAMPLES


class ReplaySet(NamedTuple):
    """A folder of samples: its shards with their labels, and what its manifest says."""

    shards: list[Shard]
    chosen: torch.Tensor  # [N] rows of the shards: one for each label and seed
    labels: torch.Tensor  # [N]
    id2label: dict[int, str]
    autoencoder_sha256: str | None  # of the latents, where there are any

    def rows(self, tensor: str) -> ShardRows:
        """`images` (uint8) or `latents`."""
        return ShardRows(self.shards, tensor, self.chosen)


def open_replay(folder: str | Path) -> ReplaySet:
    """What a folder of `dualoptim sample` holds; no image is read.

    Raises:
        InputError: if it is none, lacks a shard, or names no classes.
    """
    root = Path(folder)
    sentence = partial(_sentence, root)
    try:
        manifest: dict[str, Any] = read_json(root / MANIFEST)
        id2label = usable_names({int(i): str(name) for i, name in manifest["id2label"].items()})
        named = sorted(manifest["shards"].items())
        shards, labels, chosen, seen, total = [], [], [], set(), 0
        for name, sha256 in named:
            if not (found := SAMPLES.fullmatch(name)):
                raise ValueError(f"its {MANIFEST} names the file {name}")
            with safe_open(root / name, framework="pt") as stored:
                seeds = stored.get_tensor("seeds").tolist()
            if (label := int(found[1])) in id2label:  # not those of the null label
                shards.append(Shard(root / name, len(seeds), str(sha256)))
                new = [i for i, seed in enumerate(seeds) if (label, seed) not in seen]  # shards may overlap
                seen |= {(label, seed) for seed in seeds}
                chosen += [total + i for i in new]
                labels += [label] * len(new)
                total += len(seeds)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise sentence(reason(error, 150)) from None
    if not shards:
        raise sentence("it is empty")
    return ReplaySet(shards, torch.tensor(chosen), torch.tensor(labels), id2label, manifest.get("latents"))


def _sentence(root: Path, problem: str) -> InputError:
    return InputError(f"{root} holds no images that `dualoptim sample MODEL --latents --out {root}` drew ({problem}).")
