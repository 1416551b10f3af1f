"""An audit as sentences, a table and figures."""

from collections.abc import Mapping
from typing import Any

Audit = Mapping[str, Any]


def text(content: Audit) -> str:
    return str(content["headline"])
