"""The nodes of a step hear each other, so that one whose power, network or kernel has gone is missed.

Such a node closes no connection, and the ranks of the others would wait in a collective for minutes. So the launcher of
every node keeps a connection to the first node's and says a word each second, and the first node answers. The first
node knows of all others and the others know of it. A node is lost when it is silent for too long or its connection
closes before it has said that its part is over. Whoever notices names it and ends its own ranks; the first node tells
the others to end theirs. Whether the ranks of a node get on is not the subject here, but the watchdog's.

    node name          a word of another node's; the name again and again
    over name          its part is over
    (empty)            a word of the first node's
    over               ... its part is over
    lost name name     ... these nodes are lost, if any is named: leave
"""

import selectors
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pretrain.launch.knocks import Knocks
from pretrain.launch.slurm import say

BEATS = 15
"""Words within the time that a node may be silent."""


@dataclass
class Pulse:
    """What this node knows of the others."""

    limit: float
    """Seconds that a node may be silent."""
    lost: dict[str, str] = field(default_factory=dict)
    """Nodes, and how this one knows."""
    told: bool = False
    """Whether this node was told to leave: the first one has said that others are lost."""

    @property
    def has_stopped(self) -> bool:
        """Whether this node has to leave."""
        return self.told or bool(self.lost)

    @property
    def interval(self) -> float:
        return self.limit / BEATS

    def lose(self, names: dict[str, str]) -> None:
        self.lost |= names
        for name, reason in names.items():
            say(f"node {name} is lost: {reason}")


@dataclass
class _Peer:
    name: str = ""
    heard: float = 0.0
    unread: bytes = b""


class FirstNode(Pulse):
    """The first node's side: `serve` runs in a thread and answers at the door where nodes ask for the rendezvous."""

    def __init__(self, others: Sequence[str], limit: float, join_seconds: float, knocks: Knocks | None = None):
        super().__init__(limit)
        self.join_seconds, self._knocks = join_seconds, knocks
        self._missing = set(others)  # until they have said a word
        self._gone: dict[str, float] = {}  # of these, and for how many seconds they let knocks go
        self._peers: dict[socket.socket, _Peer] = {}
        self._is_over = threading.Event()

    def over(self) -> None:
        """This node's part has ended: nobody needs to miss it."""
        self._is_over.set()

    def leave(self) -> None:
        """All are to leave, though none is lost: the ranks of one have failed."""
        self.told = True

    def serve(self, door: socket.socket, invitation: bytes) -> None:
        began = looked = time.monotonic()
        threading.Thread(target=self._knock, name="knocks", daemon=True).start()
        with selectors.DefaultSelector() as selector:
            selector.register(door, selectors.EVENT_READ)
            spoke = 0.0
            while not self._is_over.is_set():
                for key, _ in selector.select(self.interval / 4):
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)
                    if connection is door:
                        self._welcome(door, invitation, selector)
                    else:
                        self._hear(connection, selector)
                now = time.monotonic()
                if now - looked > self.limit / 2:  # this process stood still: nobody else's silence
                    for peer in self._peers.values():
                        peer.heard = now
                looked = now
                if not self.has_stopped:
                    self._miss(now, now - began)
                if now - spoke > self.interval:
                    spoke = now
                    self._tell(self._leave if self.has_stopped else "\n")
            self._tell(self._leave if self.has_stopped else "over\n")
            for connection in self._peers:
                connection.close()

    def _welcome(self, door: socket.socket, invitation: bytes, selector: selectors.BaseSelector) -> None:
        with suppress(OSError):
            connection, _ = door.accept()
            connection.setblocking(False)
            self._peers[connection] = _Peer(heard=time.monotonic())
            selector.register(connection, selectors.EVENT_READ)
            connection.send(invitation)

    def _hear(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        peer = self._peers[connection]
        try:
            said = connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        peer.heard = time.monotonic()
        *words, peer.unread = (peer.unread + said).split(b"\n")
        for word in words:
            kind, _, name = word.decode("utf-8", "replace").partition(" ")
            peer.name = name if kind == "node" else ""
            self._missing.discard(name)
        if not said:
            selector.unregister(connection)
            del self._peers[connection]
            connection.close()
            if peer.name and not self.has_stopped:
                self._lose_with({peer.name: "its connection closed"})

    def _miss(self, now: float, age: float) -> None:
        if any(seconds > self.limit for seconds, _ in self._silences(now).values()):
            self._lose_with({})
        elif self._missing and not self._gone and age > self.join_seconds:
            self._lose_with(dict.fromkeys(self._missing, f"it has not come within {self.join_seconds:.0f} s"))

    def _silences(self, now: float) -> dict[str, tuple[float, str]]:
        """Nodes, the seconds for which they are silent, and the same in words."""
        heard = {peer.name: now - peer.heard for peer in self._peers.values() if peer.name}
        gone = {name: seconds for name, seconds in self._gone.items() if name in self._missing}
        return {name: (seconds, f"silent for {seconds:.0f} s") for name, seconds in heard.items()} | {
            name: (seconds, f"it was on, and is silent for {seconds:.0f} s") for name, seconds in gone.items()
        }

    def _knock(self) -> None:
        """At nodes that have not come, for as long as there are any. Rounds are so short that a node which answered in
        one more than another is nearly given up with it."""
        while self._knocks and self._missing and not (self.has_stopped or self._is_over.is_set()):
            self._gone = self._knocks.round(list(self._missing), self.limit / 4)
            self._is_over.wait(self.interval)

    def _lose_with(self, names: dict[str, str]) -> None:
        """And with them those that are nearly given up: they went at the same moment."""
        nearly = self.limit - 3 * self.interval
        silences = self._silences(time.monotonic()).items()
        self.lose(names | {name: reason for name, (seconds, reason) in silences if seconds > nearly})

    @property
    def _leave(self) -> str:
        return f"lost {' '.join(self.lost)}\n"

    def _tell(self, word: str) -> None:
        for connection in self._peers:
            with suppress(OSError):  # closed, or its buffer is full because it does not read
                connection.send(word.encode())


class OtherNode(Pulse):
    """The side of each other node."""

    def __init__(self, name: str, first: str, limit: float):
        super().__init__(limit)
        self.name, self.first = name, first
        self._is_over = threading.Event()

    @contextmanager
    def listening(self, host: str, door: int) -> Iterator[None]:
        """Listens to the first node, for the length of a `with`."""
        thread = threading.Thread(target=self._listen, args=(host, door), name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join(self.limit)

    def _listen(self, host: str, door: int) -> None:
        try:
            with socket.create_connection((host, door), timeout=self.limit) as connection:
                connection.settimeout(self.interval / 4)
                self._talk(connection)
        except OSError as error:
            if not self._is_over.is_set():
                self.lose({self.first: f"node {self.name} cannot reach it ({error})"})

    def _talk(self, connection: socket.socket) -> None:
        heard = looked = time.monotonic()
        spoke, unread = 0.0, b""
        while not self._is_over.is_set():
            said: bytes | None = None
            with suppress(TimeoutError):
                said = connection.recv(4096)
            now = time.monotonic()
            if said or now - looked > self.limit / 2:
                heard = now
            looked = now
            if said == b"":
                return self.lose({self.first: f"its connection to node {self.name} closed"})
            *words, unread = (unread + (said or b"")).split(b"\n")
            if b"over" in words:
                return None
            if any(word.startswith(b"lost ") for word in words):
                self.told = True
                return None
            if now - heard > self.limit:
                return self.lose({self.first: f"node {self.name} has not heard it for {now - heard:.0f} s"})
            if now - spoke > self.interval:
                spoke = now
                connection.sendall(f"node {self.name}\n".encode())
        connection.sendall(f"over {self.name}\n".encode())
        return None
