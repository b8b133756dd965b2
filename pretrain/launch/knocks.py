"""Whether nodes live that have not said a word yet: their slurmd hangs up when it is called and told nothing.

Between srun's start of a task and the first word of its node (pulse.py) Python starts there. With hundreds of nodes on
one disk that can take minutes, so it has no deadline. But slurmd is there before, and needs no shared disk; while it
stands still the kernel takes its calls, and nobody hangs up. A node whose slurmd has answered before and does so no
longer has lost its power or network, or all of its processes stand still. Where slurmd itself was killed, the kernel
refuses the call: that says nothing of the node. A node that has never answered may be behind a firewall, and where the
task alone stands still slurmd does answer: those are missed when the nodes' time to come is over.
"""

import errno
import socket
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

AT_ONCE = 32
UNREACHABLE = (errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ETIMEDOUT)

FEWEST = 2
"""Knocks without an answer that make a silence: one may be lost on its way."""


class Knocks:
    """At the ports of several nodes' slurmd, by the nodes' names."""

    def __init__(self, places: Callable[[], Mapping[str, tuple[str, int]]]):
        self._find, self._places = places, dict[str, tuple[str, int]]()
        self._answered: set[str] = set()
        self._unanswered: dict[str, list[tuple[float, float]]] = {}  # since the last answer: when each began and ended

    def round(self, names: Collection[str], patience: float) -> dict[str, float]:
        """Knocks once at each, and waits `patience` seconds for each step. Of those that had answered before and are
        silent: for how many seconds, from the start of the first knock that each let go to the end of its last."""
        self._places = self._places or dict(self._find())
        known = [name for name in names if name in self._places]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda name: self._knock(name, patience), known))
        silences = {name: knocks for name in known if len(knocks := self._unanswered.get(name, [])) >= FEWEST}
        return {name: knocks[-1][1] - knocks[0][0] for name, knocks in silences.items()}

    def _knock(self, name: str, patience: float) -> None:
        began = time.monotonic()
        if answers_at(*self._places[name], patience):
            self._answered.add(name)
            self._unanswered.pop(name, None)
        elif name in self._answered:
            self._unanswered.setdefault(name, []).append((began, time.monotonic()))


def answers_at(address: str, port: int, patience: float) -> bool:
    """Whether a call is refused, or somebody answers or hangs up, within `patience` seconds of each step."""
    try:
        with socket.create_connection((address, port), timeout=patience) as call:
            call.shutdown(socket.SHUT_WR)
            call.recv(1)
    except OSError as error:
        return not isinstance(error, TimeoutError) and error.errno not in UNREACHABLE
    return True
