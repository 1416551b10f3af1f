"""Latents of an autoencoder, encoded once: the posterior's moments in shards that are read by memory map.

What a run draws is known before it begins (indices and flips are functions of counters), so only that is encoded, or
all by `dualoptim encode`. The key of an image is twice its number, plus one if it is mirrored.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dualoptim_diffusion.core.hashes import content_sha256
from dualoptim_diffusion.core.terminal import progress, say
from dualoptim_diffusion.data.stored import Shard, ShardRows, Stored
from dualoptim_diffusion.files.atomic import atomic_path, clear_leftovers
from dualoptim_diffusion.files.cache import locked_cache
from dualoptim_diffusion.files.shards import MANIFEST, ShardFolder

if TYPE_CHECKING:
    from accelerate import Accelerator

PER_SHARD = 1024  # images; an interrupted encoding repeats at most one shard a process
ENCODER_BATCH = 16  # images
MADE_FROM = {  # what a cache must agree in, and what to say where it does not
    "autoencoder_sha256": "by another autoencoder",
    "scaling_factor": "with another scaling factor",
    "crop": "from images of another size or crop",
    "images_sha256": "from other images",
}

Encode = Callable[[Tensor], Tensor]  # uint8 images [B, C, H, W] -> moments [B, 2 c, h, w]


def keys_of(indices: Tensor, flips: Tensor) -> Tensor:
    """Keys int64 [N] of images by number and whether they are mirrored."""
    return 2 * indices + flips.long()


def every_way(count: int, mirrored: bool) -> tuple[Tensor, Tensor]:
    """(numbers, flips) of all images, mirrored too if asked for."""
    numbers, ways = torch.arange(count), torch.tensor([False, True] if mirrored else [False])
    return numbers.repeat(len(ways)), ways.repeat_interleave(count)


class LatentCache:
    """A folder of moments of one data set's images; grows when `add` is given keys that it lacks.

    Args:
        folder: made when the first moments are added.
        made_from: hash of the autoencoder, its scaling factor, and which images were cut how.
        images: the images by number, uint8.
        encode: the autoencoder.
        accelerator: processes share the encoding.

    Raises:
        InputError: if the folder holds anything else, or moments of another autoencoder, other images or another crop.
    """

    def __init__(
        self,
        folder: Path,
        made_from: Mapping[str, Any],
        images: Tensor | Stored,
        encode: Encode,
        accelerator: "Accelerator",
    ) -> None:
        self.folder, self.made_from = folder, dict(made_from)
        self._folder = ShardFolder(folder, "latents", "name another folder as data.latents")
        self._images, self._encode, self._accelerator = images, encode, accelerator
        self._shards: dict[str, int] = {}  # how many images each file holds
        self._sha256: dict[str, str] = {}  # of each file
        self._refresh()

    def _refresh(self) -> None:
        """Learns what the folder holds."""
        self._shards = {}
        self.__dict__.pop("_table", None)
        if (manifest := self._folder.read()) is None:
            return
        try:
            self._sha256 = {str(name): str(value) for name, value in manifest.get("sha256", {}).items()}
            shards = {str(name): int(count) for name, count in manifest["shards"].items()}
            found = dict(manifest["made_from"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._folder.refuse(f"holds no latents: its {MANIFEST} cannot be read ({error})")
            return
        other = [part for part in MADE_FROM if found.get(part) != self.made_from[part]]
        lacking = [name for name in shards if Path(name).name != name or not (self.folder / name).is_file()]
        if other:
            self._folder.refuse(
                f"holds latents that were made {MADE_FROM[other[0]]} ({other[0]} {found.get(other[0])!r}, expected "
                f"{self.made_from[other[0]]!r}); name another folder as data.latents, or keep"
            )
        elif lacking:
            self._folder.refuse(f"lacks the shard {lacking[0]} of its {MANIFEST}; delete the folder")
        else:
            self._shards = shards
            self._drop_damaged()

    def _drop_damaged(self) -> None:
        """Deletes the files that do not have the hash that the manifest names."""
        paths = [self.folder / name for name in self._shards]
        damaged = [path for path in paths if self._sha256.get(path.name) not in (None, content_sha256(path))]
        self._accelerator.wait_for_everyone()  # all have read them
        for path in damaged:
            del self._shards[path.name]
            if self._accelerator.is_main_process:
                say(f"{path} is damaged; its latents are encoded anew.")
                path.unlink()
        if damaged and self._accelerator.is_main_process:
            self._write_manifest()

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor, ShardRows]:
        """Sorted keys, the row of each, and the rows."""
        shards = [Shard(self.folder / name, count) for name, count in sorted(self._shards.items())]
        parts = []
        for shard in shards:
            with safe_open(shard.path, framework="pt") as stored:
                parts.append(stored.get_tensor("keys"))
        keys, rows = torch.cat(parts).sort(stable=True)
        return keys, rows, ShardRows(shards, "moments")

    def missing(self, keys: Tensor) -> Tensor:
        """Those of the keys, sorted and each once, that are not here."""
        keys = keys.unique()
        return keys[~torch.isin(keys, self._table[0])] if self._shards else keys

    def add(self, keys: Tensor) -> None:
        """Encodes what is missing; interrupted and called again, it continues and ends with the same bytes."""
        with locked_cache(self.folder, self._accelerator):  # another run may be adding to it
            if self._accelerator.is_main_process:
                clear_leftovers(self.folder)
            self._refresh()
            self._accelerator.wait_for_everyone()  # all have seen the same folder before one writes to it
            if len(missing := self.missing(keys)):
                self._encode_all(missing)

    def _encode_all(self, keys: Tensor) -> None:
        accelerator = self._accelerator
        if accelerator.is_main_process and not self._shards:
            self._write_manifest()  # says what the shards that follow are made from
        accelerator.wait_for_everyone()
        chunks = keys.split(PER_SHARD)
        mine = chunks[accelerator.process_index :: accelerator.num_processes]
        quiet = not accelerator.is_main_process
        with progress(total=sum(map(len, mine)), desc="encoding images", unit="img", disable=quiet) as bar:
            for chunk in mine:
                path = self.folder / _shard_name(chunk)
                if not _is_sound(path, chunk):
                    moments = torch.cat([self._moments(part) for part in chunk.split(ENCODER_BATCH)])
                    with atomic_path(path) as beside:
                        save_file({"keys": chunk, "moments": moments}, beside)
                bar.update(len(chunk))
        accelerator.wait_for_everyone()
        self._shards |= {_shard_name(chunk): len(chunk) for chunk in chunks}
        self._sha256 = {
            name: value for name, value in self._sha256.items() if name not in set(map(_shard_name, chunks))
        }
        self.__dict__.pop("_table", None)
        if accelerator.is_main_process:
            self._write_manifest()
        accelerator.wait_for_everyone()

    def _write_manifest(self) -> None:
        self._sha256 = {name: content_sha256(self.folder / name) for name in self._shards}
        self._folder.write({"made_from": self.made_from, "sha256": self._sha256}, self._shards)

    def _moments(self, keys: Tensor) -> Tensor:
        """Of at most `ENCODER_BATCH` keys, padded to that many: the batch size must not change the result."""
        count, keys = len(keys), torch.cat([keys, keys[-1:].expand(ENCODER_BATCH - len(keys))])
        images = self._images[keys // 2]
        mirrored = (keys % 2).bool().view(-1, 1, 1, 1)
        return self._encode(torch.where(mirrored, images.flip(-1), images))[:count].float().cpu().contiguous()

    def __getitem__(self, keys: Tensor) -> Tensor:
        """Moments [B, 2 c, h, w] of keys that have been added."""
        known, rows, moments = self._table
        positions = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
        if not torch.equal(known[positions], keys):
            raise KeyError(f"some of the images were never encoded in {self.folder}")
        return moments[rows[positions]]

    def __len__(self) -> int:
        return sum(self._shards.values())


class CachedMoments:
    """Images of a set as a latent model trains on them; `at` takes parts of it as of any images.

    Args:
        cache: where the moments are.
        numbers: of the images in the cache's data set.
        shape: of one image's moments.
    """

    def __init__(self, cache: LatentCache, numbers: Tensor, shape: Sequence[int]) -> None:
        self._cache, self._numbers, self.shape = cache, numbers, (len(numbers), *shape)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        numbers = self._numbers[index]
        return self._cache[keys_of(numbers, torch.zeros_like(numbers))]

    def moments(self, indices: Tensor, flips: Tensor) -> Tensor:
        """[B, 2 c, h, w] of the images at these indices."""
        return self._cache[keys_of(self._numbers[indices], flips)]

    def obtain(self, indices: Tensor, flips: Tensor) -> None:
        """Has these encoded, where they are not yet; all processes call it alike."""
        self._cache.add(keys_of(self._numbers[indices], flips))

    def at(self, indices: Tensor) -> "CachedMoments":
        return CachedMoments(self._cache, self._numbers[indices], self.shape[1:])

    def to(self, device: torch.device | str) -> "CachedMoments":
        return self

    @property
    def sha256(self) -> str:
        content = sha256(repr(sorted(self._cache.made_from.items())).encode())
        content.update(self._numbers.numpy())
        return content.hexdigest()


def _shard_name(keys: Tensor) -> str:
    return f"moments-{sha256(keys.numpy().tobytes()).hexdigest()[:16]}.safetensors"


def _is_sound(path: Path, keys: Tensor) -> bool:
    """Whether a shard is there, readable and complete."""
    try:
        with safe_open(path, framework="pt") as stored:
            count = stored.get_slice("moments").get_shape()[0]
            return bool(count == len(keys) and torch.equal(stored.get_tensor("keys"), keys))
    except (OSError, SafetensorError):
        return False
