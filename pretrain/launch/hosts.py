"""Hosts without SLURM, such as the pods of a Kubernetes job: the same command on each, which meet at one of them.

    ./launch.sh train RECIPE --rdzv-endpoint HOST:PORT --nodes 1:4

HOST is the first host. It decides who trains in which round (rounds.py). In a round each host starts a torchrun for a
fixed number of hosts and misses those that are gone, as the nodes of a SLURM job do (node.py, pulse.py). torchrun's
own elasticity is not used: it does not notice a host that falls silent, and it dies with its first host.

A host whose ranks fail leaves with their exit code, and so does one that is asked to end by a signal; the others go on
without it. Started again, it is taken as any that comes. When the first host is lost the others wait for its return.
"""

import hashlib
import os
import signal
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from model.errors import UserError
from pretrain.launch import meeting
from pretrain.launch.environment import HOME
from pretrain.launch.interfaces import address_towards, does_resolve, is_here
from pretrain.launch.node import JOIN_SECONDS, Part, run_part
from pretrain.launch.outcome import ExitCode, Run, agreed_code
from pretrain.launch.pulse import FirstNode, OtherNode
from pretrain.launch.questions import Answer, answering, ask
from pretrain.launch.requests import Requests
from pretrain.launch.rounds import IN_ORDER, PATIENCE_SECONDS, Report, Rounds
from pretrain.launch.slurm import Task, number_of, say
from pretrain.launch.tolerance import Tolerance

STAYS = (*IN_ORDER, ExitCode.MISTAKE, ExitCode.PEER_LOST, ExitCode.HUNG)
"""Exit codes after which a host asks how to go on. After any other its own ranks have crashed."""

POLL_SECONDS = 0.5
"""How often a host asks."""

BEGIN_SECONDS = 30.0
"""How long the hosts of a round may take to find the first one's door: their launchers wait for nothing."""


@dataclass(frozen=True)
class Hosts:
    """Where hosts meet, and how many of them a round needs and takes."""

    name: str
    """Of the first host, or its address."""
    port: int
    fewest: int
    most: int

    @classmethod
    def of(cls, endpoint: str, fewest: int | None, most: int | None) -> "Hosts":
        """From the options of the command line. Raises UserError."""
        name, _, port = endpoint.rpartition(":")
        if not name.strip("[]") or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 2**16:
            raise UserError(f"--rdzv-endpoint {endpoint!r} is not HOST:PORT; name the first host and a free port of it")
        if "SLURM_JOB_ID" in os.environ:
            raise UserError(
                "--rdzv-endpoint is for hosts without SLURM; the nodes of a job meet by themselves: leave it out"
            )
        if fewest is None or most is None:
            raise UserError("--rdzv-endpoint needs --nodes MIN:MAX, the numbers of hosts to train on, for example 1:4")
        return cls(name.strip("[]"), int(port), fewest, most)

    @property
    def endpoint(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


def run_on_hosts(hosts: Hosts, module: Sequence[str], nproc: int, tolerance: Tolerance) -> tuple[int, bool]:
    """Runs this host's part, round after round, until the run is over or this host leaves.

    Returns the exit code, and whether this is the first host, which speaks for all. Raises UserError.
    """
    with Requests() as requests, _Member(hosts, tolerance, requests) as member:
        code = _run_rounds(member, module, nproc)
        return code, member.is_first


def _run_rounds(member: "_Member", module: Sequence[str], nproc: int) -> int:
    report: Report | None = None
    while True:
        word = member.ask(report)
        if "code" in word:
            return int(word["code"])
        code, lost = member.train(word, module, nproc)
        leaves = member.requests.ask_to_end or code not in STAYS
        report = Report(word["round"], code, lost, leaves)
        if leaves:
            member.say_goodbye(report)
            return code


class _Member:
    """This host, as one of several. For the length of a `with`."""

    def __init__(self, hosts: Hosts, tolerance: Tolerance, requests: Requests):
        self.hosts, self.tolerance, self.requests = hosts, tolerance, requests
        self.id, self.name = uuid.uuid4().hex[:8], os.uname().nodename
        self.identity = identity(tolerance)
        self.join_seconds = number_of("ESPALIER_JOIN_SECONDS", JOIN_SECONDS)
        self._rounds: Rounds | None = None
        self._door = ExitStack()

    def __enter__(self) -> "_Member":
        return self

    def __exit__(self, *error: object) -> None:
        if self._rounds:
            if self._rounds.over is None and isinstance(error[1], UserError):
                self._rounds.end(ExitCode.MISTAKE)
            if self._rounds.over is not None:
                self._rounds.await_told(PATIENCE_SECONDS)
        self._door.close()

    @property
    def is_first(self) -> bool:
        return self._rounds is not None

    def ask(self, report: Report | None) -> Answer:
        """Asks until there is a word: that of a round, or {"code": the exit code to end with}."""
        answered, told = time.monotonic(), ""
        while True:
            request = self.requests.take()
            if request == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)
            elif request is not None:
                say(f"{request.name} received while waiting for other hosts: there is nothing to save")
                self.say_goodbye(report)
                return {"code": ExitCode.INTERRUPTED if request == signal.SIGINT else ExitCode.PREEMPTED}
            self._open_door()
            answer = self._ask_once(report)
            if "refused" in answer:
                raise UserError(answer["refused"])
            if "round" in answer:
                return answer
            if "over" in answer:
                return {"code": answer["over"]}
            if "wait" in answer:
                answered = time.monotonic()
                line = answer["wait"]
            elif time.monotonic() - answered > self._patience():
                return {"code": self._give_up()}
            elif not does_resolve(self.hosts.name):
                line = f"the name {self.hosts.name} does not resolve here; asking for {self.join_seconds} s"
            else:
                line = f"the first host does not answer at {self.hosts.endpoint}; asking for {self.join_seconds} s"
            if line and line != told:
                say(line)
                told = line
            time.sleep(POLL_SECONDS)

    def train(self, word: Answer, module: Sequence[str], nproc: int) -> tuple[int, Mapping[str, str]]:
        """This host's part in a round. Returns its exit code, and the hosts that it has missed."""
        task = Task(word["round"], 0, tuple(word["hosts"]), word["hosts"].index(self.name))
        limit = self.tolerance.detect_seconds
        pulse: FirstNode | OtherNode
        if task.is_head:
            assert self._rounds
            pulse = FirstNode(task.nodes[1:], limit, max(limit, BEGIN_SECONDS))
            self._rounds.on_trouble = pulse.leave
            own = address_towards(word["peer"]) if word["peer"] else self.hosts.name
        else:
            pulse = OtherNode(self.name, task.nodes[0], limit)
            own = address_towards(self.hosts.name)

        def settle(run: Run) -> int:
            code = agreed_code(run)
            if code not in (*IN_ORDER, ExitCode.MISTAKE) and not pulse.has_stopped:
                time.sleep(2 * pulse.interval)  # whoever has caused it may be known by then
            if pulse.has_stopped and code not in (ExitCode.MISTAKE, *IN_ORDER[1:]):
                code = ExitCode.PEER_LOST  # whatever ranks say that have lost others
            if code not in IN_ORDER and isinstance(pulse, FirstNode):
                pulse.leave()
            return code

        ports = meeting.ports_from(number_of("MASTER_PORT", min(self.hosts.port + 1, 2**16 - 1)))
        part = Part(task, module, nproc, own or self.name, self.hosts.name, ports, word["peer"], word["variables"])
        code = run_part(part, pulse, max(limit, BEGIN_SECONDS), settle)
        return ExitCode.PEER_LOST if code is None else code, pulse.lost

    def say_goodbye(self, report: Report | None) -> None:
        """To the first host, unless this is the one."""
        if not self.is_first:
            self._ask_once(report, leaves=True)

    def _open_door(self) -> None:
        """If this is the first host, as its name says, and the command was not given here before."""
        if self._rounds or not is_here(self.hosts.name):
            return
        rounds = Rounds(
            self.id,
            self.hosts.endpoint,
            self.identity,
            self.hosts.fewest,
            self.hosts.most,
            self.tolerance,
            self.join_seconds,
        )
        if self._door.enter_context(answering(rounds.answer, self.hosts.port)):
            self._rounds = rounds

    def _ask_once(self, report: Report | None, leaves: bool = False) -> Answer:
        """Empty where nobody answers."""
        question = dict(id=self.id, name=self.name, identity=self.identity, leaves=leaves)
        if report:
            question["report"] = vars(report)
        return ask(self.hosts.name, self.hosts.port, question)

    def _patience(self) -> float:
        """Seconds. Whoever has the port of this very host, and does not answer, is another program."""
        return 2 * PATIENCE_SECONDS if is_here(self.hosts.name) else self.join_seconds

    def _give_up(self) -> int:
        if not does_resolve(self.hosts.name):
            raise UserError(f"--rdzv-endpoint {self.hosts.endpoint}: the name {self.hosts.name} does not resolve here")
        if is_here(self.hosts.name):
            raise UserError(
                f"port {self.hosts.port} of this host is taken by another program; choose another --rdzv-endpoint"
            )
        say(
            f"the first host has not answered at {self.hosts.endpoint} for {self.join_seconds} s; start the command on "
            "it, then here again: the run resumes"
        )
        return ExitCode.PEER_LOST


def identity(tolerance: Tolerance) -> dict[str, str]:
    """What all hosts must have in common, by what differs otherwise."""
    code = hashlib.sha256()
    for package in ("model", "growth", "pretrain"):
        for file in sorted((HOME / package).rglob("*.py")):
            code.update(file.read_bytes())
    return {
        "another run": Path(tolerance.folder or "").name,
        "another recipe": hashlib.sha256(tolerance.recipe.encode()).hexdigest(),
        "another version of Espalier's code": code.hexdigest(),
    }
