"""Ranks that a run cannot use. They wait for its end: torchrun ends a run soon after one of its nodes has left."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist

from pretrain.engine.exits import Stop
from pretrain.launch.outcome import ExitCode, leave

END = "espalier/end"
POLL_SECONDS = 1.0


@contextmanager
def first_ranks(number: int) -> Iterator[bool]:
    """The first `number` of torchrun's ranks train, for the length of a `with`, as if there were no others.

    Gives whether this rank is one of them. The others leave the `with` when the first rank does.
    """
    rank, num_ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if number == num_ranks:
        yield True
    elif rank < number:
        os.environ["WORLD_SIZE"] = str(number)
        code: int = ExitCode.DONE
        try:
            yield True
        except Stop as stop:
            code = stop.code
            raise
        finally:
            if rank == 0:
                _store().set(END, str(int(code)))
    else:
        leave(_await_end())  # the launcher may be of a node whose ranks are all idle
        yield False


def _await_end() -> int:
    """The exit code of the run."""
    with suppress(RuntimeError):  # the store is gone, and the run with it
        store = _store()
        while not store.check([END]):
            time.sleep(POLL_SECONDS)
        return int(store.get(END))
    return ExitCode.PEER_LOST


def _store() -> dist.TCPStore:
    """torchrun's own, which outlives every rank."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=30))
