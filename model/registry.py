"""How a list of kinds learns of one that is defined elsewhere: `pretrain/settings/plugins.py` finds it, `add` hands it
to whoever `takes` its base class, at once and whenever that list is imported later."""

from collections.abc import Callable
from typing import TypeVar

Kind = TypeVar("Kind")

_added: list[type] = []
_takers: list[tuple[type, Callable[[type], None]]] = []


def takes(base: type) -> Callable[[Callable[[type[Kind]], None]], Callable[[type[Kind]], None]]:
    """Decorates a function that puts a subclass of `base` into a list, or raises UserError if it has no place there."""

    def taker(take: Callable[[type], None]) -> Callable[[type], None]:
        _takers.append((base, take))
        for kind in added(base):
            take(kind)
        return take

    return taker


def add(kind: type) -> None:
    """Hands a class to all that take one of its bases, in the order in which they asked. A second time does nothing."""
    if kind in _added:
        return
    for base, take in _takers:
        if issubclass(kind, base):
            take(kind)
    _added.append(kind)


def added(base: type) -> list[type]:
    """The subclasses of `base` that were added, oldest first."""
    return [kind for kind in _added if issubclass(kind, base)]
