"""YAML as recipes are written in: plain data, every key once. Anything else is refused within bounds. No torch here."""

from collections.abc import Hashable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dualoptim_diffusion.core.errors import reason

LARGEST_FILE = 2**20  # bytes
DEEPEST = 20  # sections within sections
LARGEST_NUMBER = 2**63 - 1


class _Loader(yaml.SafeLoader):
    """Refuses what YAML forbids and PyYAML takes (a key twice), and what may grow without bound."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has an alias (*), which recipes do without")
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise ValueError(f"the key {key.value} stands there twice, again in line {key.start_mark.line + 1}")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        number: int = super().construct_yaml_int(node)
        if abs(number) > LARGEST_NUMBER:
            raise ValueError(f"the number {node.value[:20]}... is beyond 64 bits")
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """Plain data of a YAML text.

    Raises:
        ValueError: in one line, if it is none.
    """
    return deepcopy(_parsed(text))


@lru_cache(maxsize=64)  # a command comes by the same recipes several times
def _parsed(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:  # such as of dates
        raise ValueError(reason(error, limit=1000)) from None


def read_yaml_file(path: Path) -> Any:
    """Plain data of a YAML file.

    Raises:
        ValueError: in one line, if it is none.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE // 2**20} MiB")
    return parse_yaml(path.read_text(encoding="utf-8"))
