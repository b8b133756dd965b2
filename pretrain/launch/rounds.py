"""Which hosts train together, and when, where there is no SLURM: the first host's list of those that have come.

Every host asks, again and again (questions.py), and is told to wait, to take part in a round, or that the
run is over. A round is one start of the run on fixed hosts, the first of which is always among them. While it lasts,
they hear each other (pulse.py) and ask nothing. Then each reports how its part has ended, and asks for the next round.
Nothing of this survives the first host's process: hosts that then ask in vain wait until it has come back.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pretrain.launch.job import LAUNCH
from pretrain.launch.outcome import ExitCode
from pretrain.launch.questions import Answer, Question
from pretrain.launch.slurm import say
from pretrain.launch.survivors import CAUSE, REASONS, Cause, count_of, has_begun, last_start
from pretrain.launch.tolerance import REGROUP_FILE, Tolerance

PATIENCE_SECONDS = 5.0
"""How long one that waits may ask nothing before it has gone."""
GATHER_SECONDS = 10.0
"""How long the first round waits for more hosts once there are enough."""

IN_ORDER = (ExitCode.DONE, ExitCode.PREEMPTED, ExitCode.REGROUP)
"""Exit codes of hosts whose ranks leave together with all others."""


@dataclass(frozen=True)
class Report:
    """How a host's part in a round has ended."""

    round: str
    code: int
    lost: Mapping[str, str]
    """Hosts that it has missed, and how it knows."""
    leaves: bool
    """Whether it comes to no further round: it was asked to end, or its own ranks have failed."""


@dataclass
class Host:
    id: str
    """Of its launcher's process."""
    name: str
    address: str
    came: float
    heard: float


@dataclass
class Round:
    key: str
    hosts: list[Host]
    reports: dict[str, Report] = field(default_factory=dict)
    """By the ids of hosts, in the order in which they came."""
    ended: float = 0.0
    """When the first host has reported."""
    is_asked: bool = False
    """Whether it was asked to make room for others."""


class Rounds:
    """The first host's list.

    `id`: of the first host. `identity`: what all must have in common, by what it is called where it differs.
    """

    def __init__(
        self,
        id: str,
        endpoint: str,
        identity: Mapping[str, str],
        fewest: int,
        most: int,
        tolerance: Tolerance,
        join_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.id, self.endpoint, self.identity = id, endpoint, dict(identity)
        self.fewest, self.most, self.tolerance, self.join_seconds = fewest, most, tolerance, join_seconds
        self.clock = clock
        self.over: int | None = None
        """The exit code of the run once it has ended."""
        self.on_trouble: Callable[[], None] = lambda: None
        """Called when the part of a host has failed: the others are to leave, too."""
        self._opened = self._idle_since = clock()
        self._round: Round | None = None
        self._waiting: dict[str, Host] = {}
        self._last: set[str] = set()
        """Those of the last round."""
        self._told: set[str] = set()
        self._fruitless = 0
        self._lock = threading.Lock()
        last = last_start(tolerance.folder)
        is_later = last is not None and last[0] == endpoint
        self._cause = Cause(last[2] + 1) if last and is_later else Cause()
        self._is_new = True

    def answer(self, request: Question, address: str) -> Answer:
        """To what a host asks from an address. One of

        {"wait": why}
        {"round": key, "hosts": names, "peer": another host's address, "variables": of the ranks}
        {"over": exit code of the run}
        {"refused": why}
        """
        with self._lock:
            now = self.clock()
            id, name = str(request["id"]), str(request["name"])
            if why := self._differs(name, request["identity"]):
                return {"refused": why}
            if report := request.get("report"):
                self._take(id, Report(**report), now)
            if self.over is not None:
                self._told.add(id)
                return {"over": self.over}
            if request.get("leaves"):
                self._waiting.pop(id, None)
                self._advance(now)
                return {"wait": ""}
            if not self._takes_part(id):
                host = self._waiting.setdefault(id, Host(id, name, address, now, now))
                host.heard = now
            self._advance(now)
            return self._word_for(id, now)

    def end(self, code: int) -> None:
        """The run is over."""
        with self._lock:
            self.over = code

    def await_told(self, seconds: float) -> None:
        """Until all that wait know that it is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._waiting.keys() - {self.id} <= self._told:
            time.sleep(0.05)

    def _differs(self, name: str, identity: Mapping[str, str]) -> str:
        for what, value in self.identity.items():
            if identity.get(what) != value:
                return f"host {name} has {what} than the first one, at {self.endpoint}; start the same on all hosts"
        return ""

    def _takes_part(self, id: str) -> bool:
        """In the round that runs, which it has not reported on."""
        return self._round is not None and id not in self._round.reports and any(h.id == id for h in self._round.hosts)

    def _take(self, id: str, report: Report, now: float) -> None:
        if self._round is None or report.round != self._round.key or not self._takes_part(id):
            return
        self._round.reports[id] = report
        if id == self.id:
            self._round.ended = now
        if report.code not in IN_ORDER:
            self.on_trouble()

    def _word_for(self, id: str, now: float) -> Answer:
        if self.over is not None:
            self._told.add(id)
            return {"over": self.over}
        if self._round and self._takes_part(id):
            names = [host.name for host in self._round.hosts]
            peers = [host.address for host in self._round.hosts if host.id != id]
            variables = {CAUSE: json.dumps(asdict(self._cause)), LAUNCH: os.environ.get(LAUNCH, "")}
            return {
                "round": self._round.key,
                "hosts": names,
                "peer": peers[0] if peers else None,
                "variables": variables,
            }
        if self._round and id in self._round.reports:
            return {"wait": ""}
        host = self._waiting[id]
        if double := self._double(host, now):
            if now - host.came > 2 * self.tolerance.detect_seconds:
                del self._waiting[id]
                return {
                    "refused": f"host {host.name} takes part already, from {double.address}; start the command once on "
                    "each host, and give each a host name of its own"
                }
            return {"wait": f"another host {host.name} takes part, from {double.address}; waiting whether it is gone"}
        if self._round and len(self._round.hosts) < self.most:
            return {"wait": f"the run takes host {host.name} at its next checkpoint"}
        if self._round:
            return {"wait": f"the run has its {self.most} hosts; host {host.name} waits until one is lost"}
        ready = self._ready(now)
        return {"wait": f"{_count(ready)} of the {self.fewest} that the run needs" if len(ready) < self.fewest else ""}

    def _double(self, host: Host, now: float) -> Host | None:
        """An earlier one of the same name: the command was given twice, or a host is back before it is missed."""
        training = [other for other in self._round.hosts if self._takes_part(other.id)] if self._round else []
        earlier = [other for other in self._waiting.values() if other.came < host.came]
        return next((other for other in [*training, *earlier] if other.name == host.name and other.id != host.id), None)

    def _ready(self, now: float) -> list[Host]:
        """Those that wait: the first host, then those of the last round."""
        ready = [host for host in self._waiting.values() if not self._double(host, now)]
        return sorted(ready, key=lambda host: (host.id != self.id, host.id not in self._last, host.came))

    def _advance(self, now: float) -> None:
        self._waiting = {id: host for id, host in self._waiting.items() if now - host.heard < PATIENCE_SECONDS}
        if self._round and self._has_ended(self._round, now):
            self._close(self._round, now)
        if self._round:
            self._ask_to_regroup(self._round, now)
        elif self.over is None:
            self._open(now)

    def _has_ended(self, round: Round, now: float) -> bool:
        if self.id not in round.reports:
            return False
        lost = round.reports[self.id].lost
        missing = [host for host in round.hosts if host.id not in round.reports and host.name not in lost]
        return not missing or now - round.ended > self.tolerance.detect_seconds + PATIENCE_SECONDS

    def _close(self, round: Round, now: float) -> None:
        reports = {host.name: round.reports[host.id] for host in round.hosts if host.id in round.reports}
        lost = {**round.reports[self.id].lost}
        lost |= {
            host.name: "it has not said how its part ended"
            for host in round.hosts
            if host.name not in {*reports, *lost}
        }
        failed = lost | {
            name: f"its part ended with exit code {report.code}"
            for name, report in reports.items()
            if report.leaves and report.code not in (*IN_ORDER, ExitCode.INTERRUPTED)
        }
        codes = [report.code for report in round.reports.values()]
        self._round, self._idle_since = None, now
        if ExitCode.MISTAKE in codes or not (failed or any(codes)):
            self.over = ExitCode.MISTAKE if ExitCode.MISTAKE in codes else ExitCode.DONE
            return
        left = [name for name, report in reports.items() if report.leaves]
        if failed:
            reason = ", ".join(f"host {name} failed: {what}" for name, what in failed.items())
        elif left:
            reason = f"host {' '.join(left)} left"
        else:
            reason = next(REASONS[code] for code in [*codes, ExitCode.PEER_LOST] if code in REASONS)
        begun = has_begun(self.tolerance.folder, self.endpoint, 0, self._cause.attempt) or ExitCode.REGROUP in codes
        self._fruitless = 0 if begun else self._fruitless + 1
        if self._fruitless > self.tolerance.restarts:
            say(f"{reason}; {self._fruitless} starts in a row failed before the run began: it is given up")
            self.over = ExitCode.MISTAKE
            return
        self._cause = Cause(self._cause.attempt + 1, reason, list(failed))
        say(f"{reason}; the hosts that are left meet again at {self.endpoint}")

    def _open(self, now: float) -> None:
        ready = self._ready(now)
        if not ready or ready[0].id != self.id:
            return
        if len(ready) < self.fewest:
            if now - self._idle_since > self.join_seconds:
                say(
                    f"{_count(ready)} of the {self.fewest} that the run needs after {self.join_seconds:g} s: start the "
                    "command on the others, then here again"
                )
                self.over = ExitCode.PEER_LOST
            return
        if self._is_new and len(ready) < self.most and now - self._opened < GATHER_SECONDS:
            return
        hosts = ready[: self.most]
        names = [host.name for host in hosts]
        self._is_new, self._last = False, {host.id for host in hosts}
        self._cause = Cause(self._cause.attempt, self._cause.cause, self._cause.failed_nodes, (), names)
        self._round = Round(f"{self.id}-{self._cause.attempt}", hosts)
        for host in hosts:
            del self._waiting[host.id]
        say(f"the run {'continues' if self._cause.attempt else 'begins'} on {_count(hosts)}: {' '.join(names)}")

    def _ask_to_regroup(self, round: Round, now: float) -> None:
        new = self._ready(now)
        is_full = len(round.hosts) >= self.most
        if not new or is_full or round.is_asked or self.id in round.reports or self.tolerance.folder is None:
            return
        with suppress(OSError):
            Path(self.tolerance.folder, REGROUP_FILE).touch()
            round.is_asked = True
            names = " ".join(host.name for host in new)
            say(f"{_count(new)} more: {names}; the run takes them at its next checkpoint")


def _count(hosts: Sequence[Host]) -> str:
    return count_of(hosts, "host")
