"""A machine is on if its kernel answers, whatever it answers."""

import errno
import socket

import pytest

from pretrain.launch import knocks
from pretrain.launch.knocks import Knocks, is_on


def test_who_listens_and_who_refuses_is_on():
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        assert is_on("127.0.0.1", port, 10)
    assert is_on("127.0.0.1", port, 10)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(TimeoutError(), False), (OSError(errno.EHOSTUNREACH, ""), False), (OSError(errno.EMFILE, ""), True)],
)
def test_a_fault_of_this_machine_says_nothing_of_another(monkeypatch, error, expected):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    assert is_on("10.0.0.1", 20000, 1) is expected


def test_one_answer_ends_a_silence_and_an_unknown_address_counts_for_nothing(monkeypatch):
    answers = iter([True, False, True, False])
    monkeypatch.setattr(knocks, "is_on", lambda *_: next(answers))
    rounds = Knocks(lambda: {"node2": "10.0.0.2"}, 20015)
    silent = [list(rounds.round(["node2", "node3"], 1)) for _ in range(4)]
    assert silent == [[], ["node2"], [], ["node2"]]
