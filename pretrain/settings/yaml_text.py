"""Reads YAML as recipes use it."""

import re
import typing
from collections.abc import Hashable
from typing import Any

import yaml

from model.errors import UserError

MAX_VALUES, MAX_DEPTH = 100_000, 50
"""Of a file, with its anchors filled in. The largest recipe has a few hundred, four deep."""
TOO_DEEP = f"lists and mappings are nested too deep; {MAX_DEPTH} levels are allowed"
MAX_SHOWN = 200
"""Characters of a value in a message."""


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2: 6e-3 is a number, `no` and 1:30 are text; a key given twice is an error."""

    yaml_implicit_resolvers: typing.ClassVar[dict] = {}  # type: ignore[misc]  # as PyYAML itself does

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, TOO_DEEP, self.peek_event().start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _fault(f"a key must be a plain word, not {key!r}", key_node)
            if key in seen:
                raise _fault(f"key {key!r} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _fault(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_DIGITS = r"[0-9](?:_?[0-9])*"
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"^[-+]?{_DIGITS}$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(rf"^[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value.replace("_", "")))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value.replace("_", "")))


def parse(text: str, source: str) -> Any:
    """The values in a text. Raises UserError that names `source`, the line and what is wrong there."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: `!!int soon`
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{source}{where}: {problem}") from None
    _check_size(value, source)
    return value


def shown(value: Any) -> str:
    """A value as Python writes it, cut where it would fill the screen."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _check_size(value: Any, source: str) -> None:
    """Refuses what a few anchors make endless or very large."""
    waiting, num_values = [(value, 1)], 0
    while waiting:
        inner, depth = waiting.pop()
        num_values += 1
        if depth > MAX_DEPTH:
            raise UserError(f"{source}: {TOO_DEEP}")
        if num_values > MAX_VALUES:
            raise UserError(f"{source}: its anchors make more than {MAX_VALUES:,} values; write the values out")
        if isinstance(inner, dict | list):
            parts = inner.values() if isinstance(inner, dict) else inner
            waiting.extend((part, depth + 1) for part in parts)
