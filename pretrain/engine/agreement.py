"""How ranks agree: on an error, on a value, and on stopping."""

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from model.errors import UserError
from model.lazy import dist, torch
from pretrain.engine import signals
from pretrain.engine.exits import Stop

T = TypeVar("T")

ACTED = "rank 0 has acted"
"""Key in the process group's store."""

ASKED_A_SECOND = 2000
"""How often all ranks together ask the store, while they wait for rank 0."""


def is_group() -> bool:
    """Whether this process is one of a group of ranks. One that has not imported torch is not."""
    return "torch" in sys.modules and dist.is_initialized()


def raise_together(error: Exception | None) -> None:
    """Raises Stop on all ranks when any of them has an error, with the message of the first. Collective."""
    message = first_message(None if error is None else str(error))
    if message is not None:
        raise Stop(message)


def first_message(own: str | None) -> str | None:
    """What the first rank says that says anything, on all ranks; None where none does. Collective.

    They reduce one number: the texts of a thousand ranks, of which nearly always none says anything, stay where they
    are.
    """
    from pretrain.engine.distributed import device

    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    first = torch.tensor(num_ranks if own is None else rank, device=device())
    dist.all_reduce(first, dist.ReduceOp.MIN)
    return None if first.item() == num_ranks else _from(int(first.item()), own)


def from_rank_0(value: T) -> T:
    """Rank 0's value, on all ranks. Collective."""
    return _from(0, value)


def _from(rank: int, value: T) -> T:
    values = [value]
    dist.broadcast_object_list(values, src=rank)
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
        seconds = max(0.05, dist.get_world_size() / ASKED_A_SECOND)
        while not store.check([ACTED]):
            time.sleep(seconds)
    raise_together(error)
    if dist.get_rank() == 0:
        store.delete_key(ACTED)


def asked_to_stop() -> bool:
    """Whether any rank has received a signal. Collective."""
    return bool(largest(signals.received is not None)[0])


def largest(*numbers: int) -> list[int]:
    """Of each number, the largest that a rank says. Collective, among the hosts."""
    from pretrain.engine.distributed import host_group

    said = torch.tensor(numbers, dtype=torch.int32)
    dist.all_reduce(said, dist.ReduceOp.MAX, group=host_group())
    return said.tolist()


def say_once(line: str) -> None:
    """Tells the user something that all ranks know: rank 0 writes it to stderr."""
    if dist.get_rank() == 0:
        print(f"espalier: {line}", file=sys.stderr)
