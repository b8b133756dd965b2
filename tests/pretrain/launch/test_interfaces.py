"""Which interface gloo and NCCL are given. Nodes as they are: tests/whole/slurm/test_launcher.py."""

import socket
from types import SimpleNamespace

import pytest

from pretrain.launch.interfaces import interface_variables

INTERFACES = {
    "lo": ["127.0.0.1", "::1"],
    "eth0": ["192.168.77.11", "fe80::1%eth0"],
    "ib0": ["10.77.0.11", "fd00::11"],
}
NAMES = {"own-is-loopback": "127.0.1.1", "own-is-known": "10.77.0.11"}


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    """Two networks; the way to any peer leads over ib0."""

    def addresses(host, port):
        address = NAMES.get(host, host)
        if not address[0].isdigit() and ":" not in address:
            raise socket.gaierror(host)
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", (address, 0))]

    class Probe:
        def __init__(self, *_): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def connect(self, address): ...
        def getsockname(self):
            return ("10.77.0.11", 40000)

    found = {name: [SimpleNamespace(address=one) for one in all_] for name, all_ in INTERFACES.items()}
    monkeypatch.setattr("psutil.net_if_addrs", lambda: found)
    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    monkeypatch.setattr(socket, "socket", Probe)


@pytest.mark.parametrize(
    ("own", "peer", "interface"),
    [
        ("10.77.0.11", "10.77.0.12", "ib0"),
        ("192.168.77.11", None, "eth0"),
        ("fd00::11", None, "ib0"),
        ("own-is-known", None, "ib0"),
        ("own-is-loopback", "10.77.0.12", "ib0"),
        ("own-is-unknown", "10.77.0.12", "ib0"),
    ],
)
def test_the_interface_is_that_of_the_nodes_address(own, peer, interface):
    assert interface_variables(own, peer) == {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}


def test_nothing_is_set_where_nothing_is_known():
    assert interface_variables("own-is-loopback", None) == {}
    assert interface_variables("own-is-unknown", "peer-is-unknown") == {}
