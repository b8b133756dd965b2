"""How the nodes of a step meet: the first one says at which of its ports torchrun's rendezvous listens.

It cannot be told beforehand: whoever starts the step may be on another machine, and any port may be taken. So the first
node answers at the first free port of a list that all nodes know, and the others ask there.
"""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from model.errors import UserError
from pretrain.launch.pulse import FirstNode

NUM_PORTS = 16
ANSWER_SECONDS = 5.0
LINE_BYTES = 200


def ports_from(first: int) -> list[int]:
    """Those that the nodes of a step try, in this order. Raises UserError where `first` is no port."""
    if not 0 < first < 2**16:
        raise UserError(f"MASTER_PORT is {first}; it must be a port, 1 to {2**16 - 1}")
    return list(range(first, min(first + NUM_PORTS, 2**16)))


class Place(NamedTuple):
    """Ports of the first node."""

    door: int
    """Where nodes ask, and stay to listen (pulse.py)."""
    rendezvous: int


@contextmanager
def invitation(key: str, ports: Sequence[int], host: FirstNode) -> Iterator[int]:
    """On the first node, for the length of a `with`: tells whoever asks the port that this yields. It is free.

    `key` names the step, so that a node does not join another's. Raises UserError when too few ports are free.
    """
    free = listeners(ports, 2)
    if len(free) < 2:
        raise UserError(
            f"of the ports {ports[0]} to {ports[-1]} only {len(free)} are free on the first node, and two are needed; "
            "name the first port of a free range: MASTER_PORT=PORT"
        )
    listener, rendezvous = free
    port = rendezvous.getsockname()[1]
    rendezvous.close()  # torchrun listens there
    thread = threading.Thread(target=host.serve, args=(listener, f"{key} {port}\n".encode()), name="door", daemon=True)
    thread.start()
    try:
        yield port
    finally:
        host.over()
        thread.join()
        listener.close()


def find(key: str, host: str, ports: Sequence[int], seconds: float) -> Place | None:
    """On the other nodes: where the first one is, as it says; None when it has not within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for port in ports:
            answer = _ask(host, port).split()
            if len(answer) == 2 and answer[0] == key and answer[1].isdigit():
                return Place(port, int(answer[1]))
        time.sleep(0.5)
    return None


def listeners(ports: Sequence[int], count: int) -> list[socket.socket]:
    """Sockets at the first `count` ports that are free on all addresses."""
    found: list[socket.socket] = []
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    for port in ports:
        with suppress(OSError):
            found.append(socket.create_server(("", port), family=family, dualstack_ipv6=both))
        if len(found) == count:
            break
    return found


def _ask(host: str, port: int) -> str:
    """The line that is said at a port; empty where nobody listens, or says nothing."""
    with (
        suppress(OSError),
        socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection,
        connection.makefile("r", encoding="utf-8", errors="replace") as lines,
    ):
        return lines.readline(LINE_BYTES)
    return ""
