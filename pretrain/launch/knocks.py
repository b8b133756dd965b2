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


class Knocks:
    """At the ports of several nodes' slurmd, by the nodes' names."""

    def __init__(self, places: Callable[[], Mapping[str, tuple[str, int]]]):
        self._find, self._places = places, dict[str, tuple[str, int]]()
        self._answered: set[str] = set()
        self._silent_since: dict[str, float] = {}

    def round(self, names: Collection[str], patience: float) -> dict[str, float]:
        """Knocks once at each, and waits `patience` seconds. Of those that had answered before and do so no longer:
        since when, by the monotonic clock."""
        self._places = self._places or dict(self._find())
        known = [name for name in names if name in self._places]
        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            answers = list(threads.map(lambda name: answers_at(*self._places[name], patience), known))
        for name, answer in zip(known, answers, strict=True):
            if answer:
                self._answered.add(name)
                self._silent_since.pop(name, None)
            elif name in self._answered:
                self._silent_since.setdefault(name, began)
        return {name: self._silent_since[name] for name in known if name in self._silent_since}


def answers_at(address: str, port: int, patience: float) -> bool:
    """Whether a call is refused, or somebody answers or hangs up, within `patience` seconds of each step."""
    try:
        with socket.create_connection((address, port), timeout=patience) as call:
            call.shutdown(socket.SHUT_WR)
            call.recv(1)
    except OSError as error:
        return not isinstance(error, TimeoutError) and error.errno not in UNREACHABLE
    return True
