"""The network interface for gloo, and for NCCL's sockets: the one with the address by which SLURM reaches the node.

Left alone, gloo takes the address that the node's own name resolves to. That is 127.0.1.1 on Debian, and loopback where
the name does not resolve: nodes then never meet.
"""

import ipaddress
import socket
from collections.abc import Iterable
from contextlib import suppress


def interface_variables(own_host: str, peer_host: str | None) -> dict[str, str]:
    """Environment variables for this node's ranks; none where its interface cannot be found.

    `own_host` is the node's NodeAddr. Where that is a name that leads to loopback here, `peer_host`, the NodeAddr of
    another node, tells: the interface is that on the way there.
    """
    name = find_interface([*_addresses(own_host), *_source_of_route(peer_host)])
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"} if name else {}  # =: not a prefix


def find_interface(addresses: Iterable[str]) -> str | None:
    """The interface of this machine that has the first of the addresses that any has; loopback does not count."""
    import psutil

    interfaces = {
        entry.address.partition("%")[0]: name for name, entries in psutil.net_if_addrs().items() for entry in entries
    }
    for address in addresses:
        if not ipaddress.ip_address(address).is_loopback and address in interfaces:
            return interfaces[address]
    return None


def is_here(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    import psutil

    own = {entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries}
    return any(address in own or ipaddress.ip_address(address).is_loopback for address in _addresses(host))


def address_towards(host: str) -> str | None:
    """This machine's address as `host` sees it; None where no way leads there."""
    return next(iter(_source_of_route(host)), None)


def does_resolve(host: str) -> bool:
    return bool(_addresses(host))


def _addresses(host: str) -> list[str]:
    with suppress(OSError):
        return [str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)]
    return []


def _source_of_route(host: str | None) -> list[str]:
    """This machine's address as `host` would see it. Nothing is sent."""
    for address in _addresses(host) if host else []:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return [probe.getsockname()[0]]
    return []
