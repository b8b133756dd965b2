"""Questions of hosts to the first one, and its answers: a line of JSON each way, and a connection each time."""

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pretrain.launch.meeting import listeners

SECONDS = 5.0
"""How long either side waits for the other."""
QUESTION_BYTES = 1 << 16

Question = Mapping[str, Any]
Answer = dict[str, Any]


def ask(host: str, port: int, question: Question) -> Answer:
    """What the first host answers; empty where it does not, or another program does."""
    try:
        with (
            socket.create_connection((host, port), timeout=SECONDS) as connection,
            connection.makefile("rwb") as lines,
        ):
            lines.write(json.dumps(question).encode() + b"\n")
            lines.flush()
            answer = json.loads(lines.readline())
    except (OSError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}


@contextmanager
def answering(answer: Callable[[Question, str], Answer], port: int) -> Iterator[bool]:
    """Answers at a port, for the length of a `with`: `answer` takes a question and the address that it comes from.

    Gives False where another process has the port.
    """
    found = listeners([port], 1)
    if not found:
        yield False
        return
    door = _Door(("", port), _Asked, bind_and_activate=False)
    door.socket.close()
    door.socket, door.answer = found[0], answer
    threading.Thread(target=door.serve_forever, args=(0.05,), name="answers", daemon=True).start()
    try:
        yield True
    finally:
        door.shutdown()
        door.server_close()


class _Door(socketserver.ThreadingTCPServer):
    daemon_threads = True
    answer: Callable[[Question, str], Answer]


class _Asked(socketserver.StreamRequestHandler):
    timeout = SECONDS

    def handle(self) -> None:
        assert isinstance(self.server, _Door)
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # whoever speaks otherwise is no host
            question = json.loads(self.rfile.readline(QUESTION_BYTES))
            answer = self.server.answer(question, self.client_address[0].removeprefix("::ffff:"))
            self.wfile.write(json.dumps(answer).encode() + b"\n")
