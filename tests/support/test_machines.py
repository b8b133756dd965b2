import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import machines
from tests.support.machines import Machine

PORT = 4000

if machines.why_not():
    pytest.skip(machines.why_not(), allow_module_level=True)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """A switch, and a machine that listens."""
    switch = Machine("hub", 1, tmp_path, [tmp_path])
    machine = Machine("leaf", 2, tmp_path, [tmp_path], switch)
    try:
        switch.start()
        machine.start(knows_itself=True)
        yield switch, machine
    finally:
        machine.kill()
        switch.kill()


def ask(machine: Machine, command: str) -> str:
    done = subprocess.run(machine.command("bash", "-c", command), capture_output=True, text=True, check=False)
    return done.stdout.strip()


def listen(machine: Machine) -> None:
    server = f"import socket, time; s = socket.create_server(('', {PORT})); print(flush=True); time.sleep(600)"
    process = subprocess.Popen(machine.command("python3", "-c", server), stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()


def reaches(machine: Machine, other: Machine) -> bool:
    return ask(machine, f"timeout 0.5 bash -c '</dev/tcp/{other.address}/{PORT}' && echo yes") == "yes"


def received(machine: Machine) -> int:
    return int(ask(machine, f"sed -n 's/ *{machines.FABRIC}: *[0-9]* *\\([0-9]*\\).*/\\1/p' /proc/net/dev"))


def test_a_machine_has_its_own_name_address_and_temporary_files_and_shares_the_rest(pair, tmp_path):
    switch, machine = pair
    assert ask(machine, "hostname; getent hosts leaf") == "leaf\n127.0.1.1       leaf"
    assert ask(switch, "hostname; getent hosts hub || echo unknown") == "hub\nunknown"
    ask(machine, f"touch /tmp/here {tmp_path}/everywhere")
    assert ask(switch, f"cd /tmp; ls here {tmp_path}/everywhere 2>/dev/null") == f"{tmp_path}/everywhere"
    assert not Path("/tmp/here").exists()


def test_a_link_is_cut_both_ways_or_one_way_and_mended(pair):
    switch, machine = pair
    listen(machine)
    assert reaches(switch, machine)
    for way, hears in (("both", False), ("in", False), ("out", True)):
        machine.cut(way)
        before = received(machine)
        assert not reaches(switch, machine)
        assert (received(machine) > before) == hears
        machine.mend()
        time.sleep(0.05)
        assert reaches(switch, machine)


def test_a_link_is_limited(pair, tmp_path):
    _, machine = pair
    machine.limit("8mbit")
    listing = ask(machine, f"tc qdisc show dev {machines.FABRIC}")
    assert "tbf" in listing and "8Mbit" in listing


def states(machine) -> set[str]:
    return {Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] for pid in machine.processes("socket")}


def test_a_frozen_machine_accepts_nothing_and_thaws(pair):
    _, machine = pair
    listen(machine)
    machine.signal(signal.SIGSTOP)
    deadline = time.monotonic() + 10  # a running process stops when the kernel next looks at it
    while states(machine) != {"T"} and time.monotonic() < deadline:
        time.sleep(0.05)
    assert states(machine) == {"T"}
    machine.signal(signal.SIGCONT)
    assert ask(machine, "echo back") == "back"
    machine.signal(signal.SIGSTOP)  # it can be switched off frozen


def test_nothing_of_a_machine_outlives_it_and_it_starts_again(pair):
    switch, machine = pair
    listen(machine)
    ask(machine, "nohup sleep 600 >/dev/null 2>&1 & touch /tmp/here")
    (sleeper,) = machine.processes("sleep 600")
    machine.kill()
    assert not Path(f"/proc/{sleeper}").exists()
    assert not reaches(switch, machine)
    machine.start()
    listen(machine)
    assert reaches(switch, machine)
    assert ask(machine, "ls /tmp/here 2>/dev/null") == ""
