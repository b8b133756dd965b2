"""How the nodes of a step find the first one."""

import socket
import threading
from contextlib import closing

import pytest

from model.errors import UserError
from pretrain.launch import meeting
from pretrain.launch.pulse import FirstNode


def listener() -> socket.socket:
    return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)


def host() -> FirstNode:
    return FirstNode((), limit=30, join_seconds=30)


@pytest.fixture
def ports() -> list[int]:
    """Free ones, in any order."""
    sockets = [listener() for _ in range(4)]
    numbers = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return numbers


def test_nodes_are_told_a_free_port(ports):
    with meeting.invitation("7-0-1", ports, host()) as port:
        assert port == ports[1]
        assert meeting.find("7-0-1", "127.0.0.1", ports, 10).rendezvous == port
        socket.create_server(("", port)).close()
    assert meeting.find("7-0-1", "127.0.0.1", ports, 0.1) is None


def test_ports_that_others_hold_are_passed_over_by_both_sides(ports, monkeypatch):
    """The first belongs to a program that never says a word, the second to another job."""
    monkeypatch.setattr(meeting, "ANSWER_SECONDS", 0.2)
    silent = socket.create_server(("", ports[0]))
    with (
        closing(silent),
        meeting.invitation("6-0-0", ports[1:3], host()),
        meeting.invitation("7-0-1", ports, host()) as port,
    ):
        assert meeting.find("7-0-1", "127.0.0.1", ports, 10).rendezvous == port


def test_a_node_waits_for_the_first_one(ports):
    found = []
    seeker = threading.Thread(target=lambda: found.append(meeting.find("7-0-1", "127.0.0.1", ports, 30)))
    seeker.start()
    with meeting.invitation("7-0-1", ports, host()) as port:
        seeker.join()
    assert [place.rendezvous for place in found] == [port]


def test_no_free_ports_are_one_line(ports):
    with (
        closing(socket.create_server(("", ports[0]))),
        pytest.raises(UserError, match="only 0 are free .* MASTER_PORT=PORT"),
        meeting.invitation("7-0-1", ports[:1], host()),
    ):
        pass


@pytest.mark.parametrize("first", [0, 65536, 70000])
def test_a_number_that_is_no_port_is_one_line(first):
    with pytest.raises(UserError, match=f"MASTER_PORT is {first}; it must be a port, 1 to 65535"):
        meeting.ports_from(first)
