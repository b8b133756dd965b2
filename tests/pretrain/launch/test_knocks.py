"""A node lives if its kernel refuses a call, or its slurmd hangs up; not if the call is only taken."""

import errno
import socket
import threading
from contextlib import closing

import pytest

from pretrain.launch import knocks
from pretrain.launch.knocks import Knocks, answers_at


def test_who_hangs_up_or_refuses_lives_and_who_only_takes_the_call_does_not():
    """The kernel takes calls for a process that stands still."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        assert not answers_at("127.0.0.1", port, 0.2)
        door.accept()[0].close()

        def hang_up() -> None:
            """As slurmd does once it has read that nothing comes."""
            with closing(door.accept()[0]) as call:
                assert call.recv(1) == b""

        slurmd = threading.Thread(target=hang_up)
        slurmd.start()
        assert answers_at("127.0.0.1", port, 30)
        slurmd.join()
    assert answers_at("127.0.0.1", port, 30)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(TimeoutError(), False), (OSError(errno.EHOSTUNREACH, ""), False), (OSError(errno.EMFILE, ""), True)],
)
def test_a_fault_of_this_machine_says_nothing_of_another(monkeypatch, error, expected):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    assert answers_at("10.0.0.1", 6818, 1) is expected


def test_one_answer_ends_a_silence_and_an_unknown_address_counts_for_nothing(monkeypatch):
    answers = iter([True, False, True, False, False])
    monkeypatch.setattr(knocks, "answers_at", lambda *_: next(answers))
    rounds = Knocks(lambda: {"node2": ("10.0.0.2", 6818)})
    silent = [list(rounds.round(["node2", "node3"], 1)) for _ in range(5)]
    assert silent == [[], [], [], [], ["node2"]]


def test_a_silence_is_two_knocks_and_its_own_however_long_a_round_takes(monkeypatch):
    """As when more nodes are silent than are called at once, on a clock of the test's own."""
    now, silent = 0.0, set()

    def wait_for_answer(name: str, *_: object) -> bool:
        nonlocal now
        now += 20 if name in silent else 0
        return name not in silent

    monkeypatch.setattr(knocks, "answers_at", wait_for_answer)
    monkeypatch.setattr(knocks.time, "monotonic", lambda: now)
    monkeypatch.setattr(knocks, "AT_ONCE", 1)
    names = ["node2", "node3", "node4"]
    calls = Knocks(lambda: {name: (name, 6818) for name in names})
    assert calls.round(names, 10) == {}
    silent |= {"node2", "node3"}
    assert calls.round(names, 10) == {}  # 40 s on
    silent |= {"node4"}
    assert calls.round(names, 10) == {"node2": 60, "node3": 60}
