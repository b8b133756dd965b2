"""Room for the sockets of a run: every rank keeps connections to the key-value store in a process of the first node."""

import resource
from contextlib import suppress

from model.errors import UserError

OF_A_RANK = 2
"""Connections to the store: that of its process group, and the watchdog's, which must not wait for the other."""

OF_THE_PROCESS = 256
"""Its own files, and the connections of the other nodes' processes."""


def raise_limit() -> None:
    """To the most that this process, and those that it starts, may have open. The usual limit, 1,024, is too low from
    some hundred ranks on."""
    most = _most()
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def check_limit(num_ranks: int) -> None:
    """Raises UserError if the store could not hold that many ranks' connections: those left out would wait forever."""
    needed, most = OF_A_RANK * num_ranks + OF_THE_PROCESS, _most()
    if most != resource.RLIM_INFINITY and needed > most:
        raise UserError(
            f"{num_ranks:,} ranks take {needed:,} open files on the first node, where a process may have {most:,} "
            "(ulimit -Hn): have its hard limit raised, or start fewer ranks"
        )


def _most() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
