"""Hashes of plain data and of files."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

_read: dict[Path, tuple[list[tuple[str, int, int, int]], str]] = {}  # what this process has hashed


def json_sha256(content: Any) -> str:
    """Hash of plain data, whatever the order of its keys."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest(*parts: str) -> str:
    """One hash of several texts."""
    return sha256(repr(parts).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, of which few are in memory at a time."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def content_sha256(path: Path) -> str:
    """Hash of a file, or of all files of a folder with their names; read once a process, and again once it changed."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    facts = [(str(file), file.stat()) for file in files]
    stamps = [(name, fact.st_size, fact.st_mtime_ns, fact.st_ctime_ns) for name, fact in facts]
    if path not in _read or _read[path][0] != stamps:
        _read[path] = stamps, folder_sha256(path, "") if path.is_dir() else file_sha256(path)
    return _read[path][1]


def folder_sha256(folder: Path, suffix: str) -> str:
    """Hash of the names and bytes of all files with this suffix, wherever the folder lies."""
    files = [path for path in sorted(folder.rglob(f"*{suffix}")) if path.is_file()]
    return json_sha256({str(path.relative_to(folder)): file_sha256(path) for path in files})
