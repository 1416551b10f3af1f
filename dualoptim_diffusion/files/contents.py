"""What is known of many files, each read once: again only where its folder says that it changed."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.hashes import file_sha256
from dualoptim_diffusion.core.terminal import progress
from dualoptim_diffusion.files.cache import cache_entry, keep, read_kept
from dualoptim_diffusion.files.class_folders import Entry
from dualoptim_diffusion.files.json_files import read_json

SHOWN_FROM = 5000  # files: fewer take no time worth a progress bar
CONTENTS = "contents"


def facts_of_files(entries: Sequence[Entry], kind: str, read: Callable[[Sequence[str]], Iterable[Any]]) -> list[Any]:
    """What `read` says of each of these paths, as JSON; it is kept for the next command under its kind.

    A file that was changed in place is seen even with its old size and date: on POSIX systems every write moves a time
    that no program can set back. Elsewhere all files are read each time.
    """
    if not entries:
        return []
    kept = _kept(entries, kind)
    known = read_kept(kept, read_json) or {}
    stamps = {entry.path: [entry.size, entry.mtime_ns, entry.changed_ns] for entry in entries}

    def is_known(path: str) -> bool:
        before = known.get(path)
        return isinstance(before, list) and before[:-1] == stamps[path] and bool(stamps[path][-1])

    unread = [path for path in stamps if not is_known(path)]
    shown = progress(
        read(unread), total=len(unread), desc=f"reading {kind} of files", unit="img",
        disable=len(unread) < SHOWN_FROM,
    )  # fmt: skip
    read_now = dict(zip(unread, shown, strict=True))
    found = {path: [*stamps[path], read_now[path] if path in read_now else known[path][-1]] for path in stamps}
    if found != known:
        keep(kept, found, lambda beside, facts: beside.write_text(json.dumps(facts), encoding="utf-8"))
    return [found[entry.path][-1] for entry in entries]


def content_hashes(entries: Sequence[Entry]) -> list[str]:
    """SHA-256 of each file.

    Raises:
        InputError: if a file cannot be read.
    """
    return facts_of_files(entries, CONTENTS, partial(map, _sha256))


def are_known(entries: Sequence[Entry]) -> bool:
    """Whether an earlier command has read these files."""
    return bool(entries) and _kept(entries, CONTENTS).is_file()


def _kept(entries: Sequence[Entry], kind: str) -> Path:
    folder = os.path.abspath(os.path.commonpath([entry.path for entry in entries]))
    return cache_entry(kind, folder).with_suffix(".json")


def _sha256(path: str) -> str:
    try:
        return file_sha256(Path(path))
    except OSError as error:
        raise InputError(f"The image {path} cannot be read ({error.strerror}); replace or delete it.") from None
