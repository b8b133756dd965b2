"""How ranks agree: on an error, and on a value."""

import sys
from typing import TypeVar

from model.lazy import dist
from pretrain.engine.exits import Stop

T = TypeVar("T")


def raise_together(error: Exception | None) -> None:
    """Raises Stop on all ranks when any of them has an error, with the message of the first. Collective."""
    messages: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, None if error is None else str(error))
    for message in filter(None, messages):
        raise Stop(message)


def from_rank_0(value: T) -> T:
    """Rank 0's value, on all ranks. Collective."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def say_once(line: str) -> None:
    """Tells the user something that all ranks know: rank 0 writes it to stderr."""
    if dist.get_rank() == 0:
        print(f"espalier: {line}", file=sys.stderr)
