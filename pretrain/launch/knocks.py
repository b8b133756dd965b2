"""Whether machines are on that have not said a word yet: the kernel of one that is answers at any port, by refusing.

Between srun's start of a task and the first word of its node (pulse.py) Python starts there. With
hundreds of nodes on one disk that can take minutes, so it has no deadline. But a machine that answered knocks and then
stops has lost its power, its network or its kernel. One that never answers may be behind a firewall, and one whose
processes alone stand still does answer: those are missed when the nodes' time to come is over.
"""

import errno
import socket
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

AT_ONCE = 32
UNREACHABLE = (errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ETIMEDOUT)


class Knocks:
    """At one port of each of several machines, by name."""

    def __init__(self, addresses: Callable[[], Mapping[str, str]], port: int):
        self._addresses, self._port = addresses, port
        self._known: Mapping[str, str] = {}
        self._answered: set[str] = set()
        self._silent_since: dict[str, float] = {}

    def round(self, names: Collection[str], patience: float) -> dict[str, float]:
        """Knocks once at each; seconds since those that had answered before do so no longer."""
        self._known = self._known or self._addresses()
        known = [name for name in names if name in self._known]
        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            answers = list(threads.map(lambda name: is_on(self._known[name], self._port, patience), known))
        for name, answer in zip(known, answers, strict=True):
            if answer:
                self._answered.add(name)
                self._silent_since.pop(name, None)
            elif name in self._answered:
                self._silent_since.setdefault(name, began)
        now = time.monotonic()
        return {name: now - self._silent_since[name] for name in known if name in self._silent_since}


def is_on(address: str, port: int, patience: float) -> bool:
    """Whether a machine accepts or refuses a connection within `patience` seconds."""
    try:
        socket.create_connection((address, port), timeout=patience).close()
    except OSError as error:
        return not isinstance(error, TimeoutError) and error.errno not in UNREACHABLE
    return True
