"""A node that is gone is missed, by whom it concerns and in time. Whole nodes: tests/whole/slurm/test_survivors.py."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from pretrain.launch.knocks import Knocks
from pretrain.launch.pulse import FirstNode, OtherNode, Pulse

LIMIT = 0.6
SLOW = 30.0
"""What a loaded machine may take for anything."""


@contextmanager
def first_node(
    *others: str, join_seconds: float = SLOW, knocks: Knocks | None = None
) -> Iterator[tuple[FirstNode, int]]:
    """The first node and its door."""
    node = FirstNode(others, LIMIT, join_seconds, knocks)
    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=node.serve, args=(door, b"7-0-1 20001\n"))
        thread.start()
        try:
            yield node, door.getsockname()[1]
        finally:
            node.over()
            thread.join()


def other_node(name: str) -> OtherNode:
    return OtherNode(name, "node1", LIMIT)


def stops(*nodes: Pulse) -> bool:
    """Whether all of them learn that they have to leave."""
    return comes_true(lambda: all(node.has_stopped for node in nodes))


def comes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SLOW
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def silent(port: int, name: str) -> Iterator[socket.socket]:
    """A node that has said one word and says no more."""
    with closing(socket.create_connection(("127.0.0.1", port))) as connection:
        connection.sendall(f"node {name}\n".encode())
        yield connection


def test_nodes_that_speak_are_not_missed():
    two, three = other_node("node2"), other_node("node3")
    with first_node("node2", "node3") as (first, port):
        with two.listening("127.0.0.1", port), three.listening("127.0.0.1", port):
            time.sleep(4 * LIMIT)
        time.sleep(2 * LIMIT)  # their parts are over
        assert not (first.has_stopped or two.has_stopped or three.has_stopped)


def test_a_silent_node_is_named_and_the_others_leave(capfd):
    two = other_node("node2")
    with first_node("node2", "node3") as (first, port), two.listening("127.0.0.1", port), silent(port, "node3"):
        assert stops(first, two)
    assert list(first.lost) == ["node3"] and two.lost == {}
    assert capfd.readouterr().err.startswith("espalier: node node3 is lost: silent for ")


def test_two_that_fall_silent_together_are_both_named():
    with first_node("node2", "node3") as (first, port), silent(port, "node2"):
        time.sleep(0.05)
        with silent(port, "node3"):
            assert stops(first)
    assert set(first.lost) == {"node2", "node3"}


def test_a_closed_connection_is_noticed_at_once():
    with first_node("node2") as (first, port):
        first.limit = SLOW
        with silent(port, "node2"):
            pass
        start = time.monotonic()
        assert stops(first) and time.monotonic() - start < SLOW / 2
    assert first.lost == {"node2": "its connection closed"}


def test_all_leave_when_the_ranks_of_one_have_failed_and_nobody_is_blamed():
    """Even if the first node has ended its own part by then."""
    two = other_node("node2")
    with first_node("node2") as (first, port), two.listening("127.0.0.1", port):
        while first._missing:
            time.sleep(0.01)
        first.leave()
        first.over()
        assert stops(first, two)
    assert first.lost == two.lost == {}


def test_a_node_that_never_comes_is_named():
    with (
        first_node("node2", "node3", join_seconds=1) as (first, port),
        other_node("node2").listening("127.0.0.1", port),
    ):
        assert stops(first)
    assert list(first.lost) == ["node3"]


def test_a_node_that_is_lost_before_it_comes_is_missed_as_soon_as_any_other(monkeypatch, capfd):
    """node3 starts slowly, but its machine is on; at node4 nobody has ever answered."""
    answers = {"node2": [True], "node3": [True], "node4": [False]}
    monkeypatch.setattr("pretrain.launch.knocks.answers_at", lambda name, port, patience: answers[name][-1])
    knocks = Knocks(lambda: {name: (name, 6818) for name in answers})
    with first_node(*answers, knocks=knocks) as (first, _):
        assert comes_true(lambda: knocks._answered == {"node2", "node3"})
        assert not first.has_stopped
        answers["node2"].append(False)
        assert stops(first)
    assert list(first.lost) == ["node2"]
    assert capfd.readouterr().err.startswith("espalier: node node2 is lost: it was on, and is silent for ")


def test_who_has_let_few_knocks_go_is_not_lost_with_who_is_given_up():
    first = FirstNode(["node2", "node3", "node4", "node5"], limit=30, join_seconds=300)
    first._gone = {"node2": 31, "node3": 13, "node4": 27}
    first._miss(now=0, age=40)
    assert first.lost == {name: f"it was on, and is silent for {first._gone[name]} s" for name in ("node2", "node4")}


@pytest.mark.parametrize("how", ["silent", "closed"])
def test_the_others_miss_the_first_node(how):
    two = other_node("node2")
    with socket.create_server(("127.0.0.1", 0)) as door, two.listening("127.0.0.1", door.getsockname()[1]):
        connection, _ = door.accept()
        if how == "closed":
            connection.close()
        assert stops(two)
        connection.close()
    (reason,) = two.lost.values()
    assert ("has not heard it for" if how == "silent" else "closed") in reason


def test_who_only_asks_for_the_rendezvous_is_not_missed():
    with first_node() as (first, port):
        with socket.create_connection(("127.0.0.1", port)) as asking:
            assert asking.recv(100).startswith(b"7-0-1 20001\n")
        time.sleep(2 * LIMIT)
        assert not first.has_stopped


def test_a_node_that_stood_still_itself_blames_nobody(monkeypatch):
    """As when its virtual machine is moved."""
    with first_node("node2") as (first, port), silent(port, "node2") as two:
        monkeypatch.setattr(first, "_tell", lambda word: time.sleep(1.5 * LIMIT) if word == "\n" else None)
        for _ in range(4):
            time.sleep(LIMIT / 2)
            two.sendall(b"node node2\n")
        assert not first.has_stopped
