"""Folders of safetensors shards under a manifest.json that says what they were made from."""

import re
import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.files.atomic import visible
from dualoptim_diffusion.files.cache import cache_folder
from dualoptim_diffusion.files.json_files import read_json, write_json

MANIFEST = "manifest.json"
SAMPLES = re.compile(r"class(\d{4})-seed[\w-]+\.safetensors")  # as `samples_shard` names them; the group is the label


def samples_shard(label: int, seeds: Sequence[int]) -> str:
    """File name of images of a label; seeds that are no plain range go by a hash of them all."""
    whole = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    end = f"{seeds[-1]:06d}" if whole else sha256(repr(list(seeds)).encode()).hexdigest()[:8]
    return f"class{label:04d}-seed{seeds[0]:06d}-{end}.safetensors"


class ShardFolder:
    """The folder.

    Args:
        path: made when the manifest is first written.
        content: what the shards hold, for sentences: samples, latents.
        remedy: what to do about a folder of something else.
    """

    def __init__(self, path: Path, content: str, remedy: str) -> None:
        self.path, self._content, self._remedy = path, content, remedy
        self._manifest = path / MANIFEST

    def read(self) -> dict[str, Any] | None:
        """The manifest; its `shards` maps file names to what is known of each. None where nothing is there yet.

        Raises:
            InputError: if the manifest is damaged, or the folder holds something else.
        """
        if not self._manifest.is_file():
            if self.path.exists() and (not self.path.is_dir() or visible(self.path)):
                self.refuse(f"exists and holds no {self._content}; {self._remedy}")
            return None
        try:
            manifest = read_json(self._manifest)
            if not isinstance(manifest, dict) or not isinstance(manifest.get("shards", {}), dict):
                raise ValueError("it is of another kind")
        except (OSError, ValueError) as error:
            self.refuse(f"holds no {self._content}: its {self._manifest.name} cannot be read ({error})")
            return None
        return manifest

    def refuse(self, problem: str) -> None:
        """What is wrong with the folder: the end of the command, or, in the cache, of what lies there.

        Raises:
            InputError: saying so.
        """
        if cache_folder() not in self.path.parents:
            raise InputError(f"{self.path} {problem}.")
        say(f"{self.path} in the cache is damaged (it {problem}); it is not used.")
        shutil.rmtree(self.path, ignore_errors=True)

    def write(self, about: Mapping[str, Any], shards: Mapping[str, Any] | None = None) -> None:
        """Writes the manifest; without shards it says what those that follow are made from."""
        write_json(self._manifest, {**about} | ({} if shards is None else {"shards": dict(shards)}))
