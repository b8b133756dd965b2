"""One of several hosts: what its command line may say, how it meets the first one, and with what it ends.

Several machines: tests/whole/test_hosts.py. Who trains in which round: test_rounds.py.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.cli.train import train
from pretrain.launch import hosts as hosts_module
from pretrain.launch import questions
from pretrain.launch.hosts import Hosts, run_on_hosts
from pretrain.launch.meeting import listeners
from pretrain.launch.outcome import ExitCode
from pretrain.launch.pulse import FirstNode
from pretrain.launch.questions import answering, ask
from pretrain.launch.rounds import Rounds
from pretrain.launch.tolerance import Tolerance
from tests.support.tiny import write_recipe


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("first", "'first' is not HOST:PORT; name the first host and a free port of it"),
        (":29400", "':29400' is not HOST:PORT"),
        ("first:", "'first:' is not HOST:PORT"),
        ("first:0", "'first:0' is not HOST:PORT"),
        ("first:65536", "'first:65536' is not HOST:PORT"),
        ("first:²", "'first:²' is not HOST:PORT"),
    ],
)
def test_what_names_no_port_of_a_host_is_refused(endpoint, message):
    with pytest.raises(UserError, match=message):
        Hosts.of(endpoint, 1, 4)


def test_an_address_of_ipv6_has_brackets():
    hosts = Hosts.of("[fd00::1]:29400", 1, 4)
    assert (hosts.name, hosts.port, hosts.endpoint) == ("fd00::1", 29400, "[fd00::1]:29400")


def test_options_that_do_not_go_together_are_refused(monkeypatch):
    with pytest.raises(UserError, match="--rdzv-endpoint needs --nodes MIN:MAX"):
        train("demo", rdzv_endpoint="first:29400")
    with pytest.raises(UserError, match="--spare is for the nodes of a SLURM job"):
        train("demo", rdzv_endpoint="first:29400", nodes="1:4", spare=1)
    with pytest.raises(UserError, match="--nodes '4:1' is not a number of nodes"):
        train("demo", rdzv_endpoint="first:29400", nodes="4:1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(UserError, match="--rdzv-endpoint is for hosts without SLURM"):
        Hosts.of("first:29400", 1, 4)


class Host:
    """This machine as the first host, or as another one. `ends`: what its parts in turn end with, or who says so."""

    def __init__(self, folder: Path) -> None:
        (listener,) = listeners(range(21000, 29000, 17), 1)
        self.port = listener.getsockname()[1]
        listener.close()
        self.tolerance = Tolerance(detect_seconds=1, folder=str(folder))
        self.ends: list[int | Callable[[], int]] = []

    def run_part(self, part, pulse, join_seconds, settle):
        end = self.ends.pop(0)
        return settle(lambda variables: end if isinstance(end, int) else end())

    def run(self, name: str = "127.0.0.1", fewest: int = 1, most: int = 1) -> tuple[int, bool]:
        return run_on_hosts(Hosts(name, self.port, fewest, most), ["nothing"], 1, self.tolerance)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    one = Host(tmp_path)
    monkeypatch.setattr(hosts_module, "run_part", one.run_part)
    monkeypatch.setattr(hosts_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(hosts_module, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(questions, "SECONDS", 0.5)
    monkeypatch.setenv("ESPALIER_JOIN_SECONDS", "1")
    return one


def test_rounds_follow_each_other_until_the_run_is_over(host, capfd):
    host.ends = [ExitCode.HUNG, ExitCode.REGROUP, ExitCode.DONE]
    assert host.run() == (ExitCode.DONE, True)
    assert host.ends == []
    said = capfd.readouterr().err
    assert "the run begins on 1 host" in said and "a rank hung; the hosts that are left meet again" in said


@pytest.mark.parametrize("code", [1, 137, 139])
def test_a_host_whose_ranks_crash_leaves_with_their_code(host, code):
    host.ends = [code]
    assert host.run() == (code, True)


def test_a_host_that_is_asked_to_end_leaves(host):
    def save() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return ExitCode.PREEMPTED

    host.ends = [save]
    assert host.run() == (ExitCode.PREEMPTED, True)


def test_what_ranks_say_that_have_lost_others_is_no_crash(host):
    """NCCL aborts them."""
    first = []

    def abort() -> int:
        first[0].leave()
        return 134

    original = FirstNode.__init__

    def remember(self, *arguments) -> None:
        first.insert(0, self)
        original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FirstNode, "__init__", remember)
        host.ends = [abort, ExitCode.DONE]
        assert host.run() == (ExitCode.DONE, True)


def test_a_signal_ends_a_host_that_waits_for_others(host, capfd):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert host.run(fewest=2, most=2) == (ExitCode.PREEMPTED, True)
    assert "SIGTERM received while waiting for other hosts: there is nothing to save" in capfd.readouterr().err


def test_too_few_hosts_are_said_and_end(host, capfd):
    assert host.run(fewest=2, most=2) == (ExitCode.PEER_LOST, True)
    said = capfd.readouterr().err
    assert "1 host of the 2 that the run needs" in said and "after 1 s: start the command on the others" in said


def test_a_first_host_that_does_not_answer_is_said(host, capfd):
    """192.0.2.1 is an address for examples: nobody has it."""
    assert host.run("192.0.2.1") == (ExitCode.PEER_LOST, False)
    said = capfd.readouterr().err
    assert f"the first host does not answer at 192.0.2.1:{host.port}; asking for 1 s" in said
    assert "start the command on it, then here again: the run resumes" in said


def test_a_name_that_does_not_resolve_is_said(host, monkeypatch, capfd):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        UserError, match=r"--rdzv-endpoint nowhere.invalid:\d+: the name nowhere.invalid does not resolve"
    ):
        host.run("nowhere.invalid")
    assert "the name nowhere.invalid does not resolve here; asking for 1 s" in capfd.readouterr().err


def test_a_port_that_another_program_has_is_said(host):
    with (
        closing(socket.create_server(("", host.port))),
        pytest.raises(UserError, match=f"port {host.port} of this host is taken by another program"),
    ):
        host.run()


@pytest.mark.parametrize("differs", ["another run", "another recipe", "another version of Espalier's code"])
def test_another_run_recipe_or_code_than_the_first_host_has_is_refused(host, differs):
    """On one machine: the first host's list answers at the port, so this host is another one."""
    common = {**hosts_module.identity(host.tolerance), differs: "other"}
    rounds = Rounds("first", f"127.0.0.1:{host.port}", common, 1, 1, host.tolerance, 1)
    with answering(rounds.answer, host.port), pytest.raises(UserError, match=f"has {differs} than the first one"):
        host.run()


def test_who_speaks_another_protocol_at_the_door_does_no_harm(host):
    rounds = Rounds("first", f"127.0.0.1:{host.port}", {}, 1, 1, host.tolerance, 1)
    with answering(rounds.answer, host.port):
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"id": 1}\n', b"\xff" * 100_000 + b"\n", b""):
            with socket.create_connection(("127.0.0.1", host.port)) as connection:
                connection.sendall(words)
        request = {"id": "first", "name": "a", "identity": {}}
        assert ask("127.0.0.1", host.port, request)["hosts"] == ["a"]


def test_a_dry_run_counts_the_ranks_of_as_many_hosts_as_the_run_needs(tmp_path, corpus, capfd):
    """A layout that no host has room for alone."""
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus, layout={"tensor_parallel": 2})
    options = dict(runs=tmp_path / "runs", nproc=1, rdzv_endpoint="first:29400", dry_run=True)
    assert train(str(recipe), **options, nodes="2:4") == 0
    with pytest.raises(UserError, match="tensor_parallel"):
        train(str(recipe), **options, nodes="1:4")
