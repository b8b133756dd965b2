"""Some fields of a shape with the values asked for: what operators are to reach."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from model.config import BertConfig


class PartialShape(Mapping[str, Any]):
    """Fields of BertConfig by name. Cannot change; a field that is absent stays as it is, and None is a value.

    Lists are held as tuples. The values are checked when they become part of a whole shape (`BertConfig.replace`).
    """

    def __init__(self, fields: Mapping[str, Any] | None = None, /, **more: Any):
        self._fields = {name: _frozen(value) for name, value in {**(fields or {}), **more}.items()}
        unknown = self._fields.keys() - BertConfig.model_fields.keys()
        assert not unknown, f"not fields of BertConfig: {', '.join(unknown)}"

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __or__(self, other: Mapping[str, Any]) -> "PartialShape":
        """Both; where they share a field, the value of `other`."""
        return PartialShape({**self, **other})

    def limited_to(self, names: Collection[str]) -> "PartialShape":
        return PartialShape({name: value for name, value in self.items() if name in names})

    def __repr__(self) -> str:
        return f"PartialShape({', '.join(f'{name}={value!r}' for name, value in self.items())})"


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
