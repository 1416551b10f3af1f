"""Hashes of plain data."""

import json
from hashlib import sha256
from typing import Any


def json_sha256(content: Any) -> str:
    """Hash of plain data, whatever the order of its keys."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest(*parts: str) -> str:
    """One hash of several texts."""
    return sha256(repr(parts).encode()).hexdigest()
