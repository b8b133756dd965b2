"""Sections of a recipe whose keys are declared in several classes, each of them next to the code that uses it."""

from collections.abc import Iterable
from typing import Any, get_type_hints

from pydantic import create_model

from pretrain.settings.values import Section

Key = tuple[Any, Any]
"""Type and default, as pydantic's `create_model` takes them."""

JOINED = "Joined"
"""The name of the classes made here: they have no source."""


def joined(keys: dict[str, Key]) -> Any:
    """A section with these keys, to inherit from."""
    return create_model(JOINED, __base__=Section, **keys)  # type: ignore[call-overload]


def join(section: type[Section], keys: dict[str, Key]) -> None:
    """Gives a section more keys, or other types to those it has. Models that contain it have to be rebuilt after it."""
    section.model_fields.update(joined(keys).model_fields)
    section.model_rebuild(force=True)


def keys_of(sections: Iterable[type[Section]]) -> dict[str, Key]:
    """The keys of several sections, in order, each once. Sections share a key only by inheriting it."""
    keys: dict[str, Key] = {}
    for section in sections:
        hints = get_type_hints(section, include_extras=True)
        for name, field in section.model_fields.items():
            keys.setdefault(name, (hints[name], ... if field.is_required() else field.default))
    return keys
