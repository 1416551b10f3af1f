"""Hashes of plain data and of files."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any


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
    """Hash of a file, or of all files of a folder with their names."""
    return folder_sha256(path, "") if path.is_dir() else file_sha256(path)


def folder_sha256(folder: Path, suffix: str) -> str:
    """Hash of the names and bytes of all files with this suffix, wherever the folder lies."""
    files = [path for path in sorted(folder.rglob(f"*{suffix}")) if path.is_file()]
    return json_sha256({str(path.relative_to(folder)): file_sha256(path) for path in files})
