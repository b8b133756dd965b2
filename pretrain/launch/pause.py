"""Ctrl-Z: a launcher stops with everything below it, and both go on together.

A terminal stops the processes of its own group. Ranks have sessions of their own, so they would train on.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def pause(child: int) -> None:
    """Stops `child` and all below it, then this process. Returns once this process is continued (`fg`, `bg`)."""
    stopped = [child, *_descendants(child)]
    signal_all(stopped, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
    signal_all(stopped, signal.SIGCONT)


def children(pid: int) -> list[int]:
    """The processes that any thread of `pid` has started; none when it is gone."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in file.read_text().split()]
    return found


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(OSError):  # it has gone
            os.kill(pid, number)


def _descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _descendants(child)
