"""Images and latents that stay in their files: what data sets need of them."""

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

Self = TypeVar("Self", bound="Stored")


class Stored(Protocol):
    """Rows [N, ...] that are read when they are asked for."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | Tensor) -> Tensor: ...

    def at(self: Self, indices: Tensor) -> Self: ...  # those at these indices; none is read for it

    def to(self: Self, device: torch.device | str) -> Self: ...  # itself: rows are moved after reading

    @property
    def sha256(self) -> str: ...  # of what the rows are, without reading them


class Shard(NamedTuple):
    """A safetensors file that holds some of the rows."""

    path: Path
    rows: int
    sha256: str = ""  # where somebody needs to know


class ShardRows:
    """Rows of one tensor that several safetensors files share, read by memory map.

    Args:
        shards: the files, in the order of their rows.
        tensor: its name in each of them.
        rows: which of all rows these are; by default all.
    """

    def __init__(self, shards: Sequence[Shard], tensor: str, rows: Tensor | None = None) -> None:
        self._shards, self._tensor = shards, tensor
        self._ends = torch.tensor([shard.rows for shard in shards]).cumsum(0).tolist()
        self._rows = torch.arange(self._ends[-1]) if rows is None else rows
        with safe_open(shards[0].path, framework="pt") as stored:
            self.shape: tuple[int, ...] = (len(self._rows), *stored.get_slice(tensor).get_shape()[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        asked = self._rows[index if isinstance(index, slice) else index.cpu()].tolist()
        by_shard: dict[int, list[int]] = {}
        for position, row in enumerate(asked):
            by_shard.setdefault(bisect_right(self._ends, row), []).append(position)
        parts, order = [torch.empty(0, *self.shape[1:])], []
        for number, positions in by_shard.items():
            shard = self._shards[number]
            first = self._ends[number] - shard.rows
            with safe_open(shard.path, framework="pt") as stored:
                part = stored.get_slice(self._tensor)
                parts += [part[asked[position] - first : asked[position] - first + 1] for position in positions]
            order += positions
        together = torch.cat(parts[1:] or parts)
        return together[torch.tensor(order, dtype=torch.long).argsort()]

    def of(self, tensor: str) -> "ShardRows":
        """The same rows of another tensor in these files."""
        return ShardRows(self._shards, tensor, self._rows)

    def at(self, indices: Tensor) -> "ShardRows":
        return ShardRows(self._shards, self._tensor, self._rows[indices])

    def to(self, device: torch.device | str) -> "ShardRows":
        return self

    @property
    def sha256(self) -> str:
        content = sha256(repr((self._tensor, [shard.sha256 for shard in self._shards])).encode())
        content.update(self._rows.numpy())
        return content.hexdigest()
