"""How ranks agree: on an error, and on a value."""

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from model.errors import UserError
from model.lazy import dist
from pretrain.engine.exits import Stop

T = TypeVar("T")

ACTED = "rank 0 has acted"
"""Key in the process group's store."""


def is_group() -> bool:
    """Whether this process is one of a group of ranks. One that has not imported torch is not."""
    return "torch" in sys.modules and dist.is_initialized()


def raise_together(error: Exception | None) -> None:
    """Raises Stop on all ranks when any of them has an error, with the message of the first. Collective."""
    agreed(error, None)


def agreed(error: Exception | None, value: T) -> list[T]:
    """Every rank's value; raises as `raise_together`. Collective."""
    said: list[tuple[str | None, T]] = [(None, value)] * dist.get_world_size()
    dist.all_gather_object(said, (None if error is None else str(error), value))
    for message, _ in said:
        if message:
            raise Stop(message)
    return [value for _, value in said]


def from_rank_0(value: T) -> T:
    """Rank 0's value, on all ranks. Collective."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def read_once(read: Callable[[], T]) -> T:
    """What `read` returns on rank 0, on all ranks: it opens files that all ranks need. Collective.

    Raises Stop on all ranks when it raises UserError. A process that is not one of a group reads by itself.
    """
    if not is_group():
        return read()
    found: tuple[T, None] | tuple[None, str] = (None, "")
    if dist.get_rank() == 0:
        try:
            found = read(), None
        except UserError as fault:
            found = None, str(fault)
    value, error = from_rank_0(found)
    if error is not None:
        raise Stop(error)
    return cast(T, value)


def rank_0_first(act: Callable[[], None]) -> None:
    """Rank 0 acts, and the others wait for it: hours if need be, where a collective would give up after some minutes.

    Raises Stop on all ranks when `act` raises UserError. Collective.
    """
    store: Any = dist.distributed_c10d._get_default_store()
    error = None
    if dist.get_rank() == 0:
        try:
            act()
        except UserError as fault:
            error = fault
        store.set(ACTED, "")
    else:
        while not store.check([ACTED]):
            time.sleep(0.05)
    raise_together(error)
    if dist.get_rank() == 0:
        store.delete_key(ACTED)


def say_once(line: str) -> None:
    """Tells the user something that all ranks know: rank 0 writes it to stderr."""
    if dist.get_rank() == 0:
        print(f"espalier: {line}", file=sys.stderr)
