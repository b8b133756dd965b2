"""Hosts without SLURM, each a machine of its own: they meet, go on without one that is gone, and take one that comes.

The launchers are real, and so is the network. torchrun's place takes a stand-in.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pretrain.launch.outcome import ExitCode
from tests.support import machines
from tests.support.home import HOME
from tests.support.machines import Machine

pytestmark = pytest.mark.timeout(900)

RANKS = """
import json, os, time
from pathlib import Path
from pretrain.launch.outcome import leave
from pretrain.launch.survivors import Cause

def main(arguments):
    folder, cause = Path(os.environ["SAID"]), Cause.from_environment()
    (folder / f"{cause.attempt}-{os.uname().nodename}").touch()
    start = {"job": os.environ["ESPALIER_HOSTS"], "restart": 0, "attempt": cause.attempt}
    (folder / "starts.json").write_text(json.dumps([start]))
    asked, agreed = folder / "regroup", folder / f"{cause.attempt}-leave"
    while not (folder / "done").exists():
        if asked.exists() and os.uname().nodename == "host1":
            asked.unlink()
            agreed.write_text("76")
        if agreed.exists():
            return leave(int(agreed.read_text() or 76))
        time.sleep(0.05)
"""
START = """
import os, sys
from pretrain.launch.environment import set_environment
from pretrain.launch.hosts import Hosts
from pretrain.launch.start import start_ranks
from pretrain.launch.tolerance import Tolerance

set_environment()
endpoint, fewest, most = sys.argv[1:]
os.environ["ESPALIER_HOSTS"] = endpoint
tolerance = Tolerance(detect_seconds=3, folder=os.environ["SAID"])
sys.exit(start_ranks(["nothing"], 1, tolerance=tolerance, hosts=Hosts.of(endpoint, int(fewest), int(most))))
"""


class Hosts:
    def __init__(self, folder: Path, number: int, *shared: Path):
        self.folder = folder
        self.last = -1
        shared = (folder, *shared, HOME, Path(sys.prefix), Path(sys.base_prefix))
        switch = Machine("switch", 1, folder, shared)
        names = range(1, number + 1)
        self.machines = [switch, *(Machine(f"host{index}", 10 + index, folder, shared, switch) for index in names)]
        self.launchers: dict[str, list[subprocess.Popen[bytes]]] = {}
        for machine in self.machines:
            machine.start(knows_itself=True)

    def __getitem__(self, number: int) -> Machine:
        return self.machines[number]

    def stop(self) -> None:
        for machine in reversed(self.machines):
            machine.kill()
        for launchers in self.launchers.values():
            for launcher in launchers:
                launcher.wait(60)

    def start(self, number: int, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        machine = self[number]
        environment = {**os.environ, **variables}
        with (self.folder / f"{machine.name}.txt").open("ab") as output:
            launcher = subprocess.Popen(machine.command(*command), env=environment, stdout=output, stderr=output)
        self.launchers.setdefault(machine.name, []).append(launcher)
        return launcher

    def said(self, number: int) -> str:
        return (self.folder / f"{self[number].name}.txt").read_text("utf-8", "replace")

    def describe(self) -> str:
        files = [*sorted(self.folder.glob("host?.txt")), *sorted(self.folder.glob("*-host?"))]
        return "\n".join(f"{file.name}: {file.read_text('utf-8', 'replace')}" for file in files)

    def wait_for(self, *files: str, timeout: float = 300) -> None:
        self.wait_until(lambda: all((self.folder / file).exists() for file in files), timeout)

    def wait_for_round(self, *numbers: int) -> int:
        """Until a round later than the last has the ranks of these hosts and of no others. Returns its number."""
        self.wait_until(lambda: self._newest()[0] > self.last and self._newest()[1] == {f"host{n}" for n in numbers})
        self.last = self._newest()[0]
        return self.last

    def _newest(self) -> tuple[int, set[str]]:
        started = [file.name.split("-") for file in self.folder.glob("*-host?")]
        newest = max((int(attempt) for attempt, _ in started), default=-1)
        return newest, {name for attempt, name in started if int(attempt) == newest}

    def wait_until(self, condition: Callable[[], bool], timeout: float = 300) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, self.describe()
            time.sleep(0.02)


@pytest.fixture
def hosts(tmp_path: Path, corpus: Path) -> Iterator[Hosts]:
    if why_not := machines.why_not():
        pytest.skip(f"all hosts would share one network: {why_not}")
    started = Hosts(tmp_path, 3, corpus)
    try:
        yield started
    finally:
        started.stop()


def test_hosts_meet_again_whenever_one_is_gone_or_comes(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "torch" / "distributed").mkdir(parents=True)
    (tmp_path / "torch" / "distributed" / "run.py").write_text(RANKS)
    for package in ("torch", "torch/distributed"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "start.py").write_text(START)

    def start(number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(tmp_path / "start.py"), "10.77.0.11:29400", "2", "3"]
        return hosts.start(number, *command, PYTHONPATH=f"{HOME}:{tmp_path}", SAID=str(tmp_path))

    launchers = [start(number) for number in (1, 2, 3)]
    hosts.wait_for_round(1, 2, 3)

    hosts[3].cut()  # it is gone
    hosts.wait_for_round(1, 2)
    assert "espalier: node host3 is lost: silent for" in hosts.said(1)
    hosts[3].mend()  # and comes again, by itself
    hosts.wait_for_round(1, 2, 3)

    hosts[2].signal(signal.SIGSTOP)
    hosts.wait_for_round(1, 3)
    hosts[2].signal(signal.SIGCONT)
    hosts.wait_for_round(1, 2, 3)

    hosts[3].kill()
    hosts.wait_for_round(1, 2)
    hosts[3].start()
    launchers[2].wait(60)
    launchers[2] = start(3)
    hosts.wait_for_round(1, 2, 3)

    hosts[1].kill()  # the first one
    launchers[0].wait(60)
    hosts[1].start()
    launchers[0] = start(1)
    last = hosts.wait_for_round(1, 2, 3)
    assert "the first host does not answer at 10.77.0.11:29400" in hosts.said(2)

    hosts[2].signal(signal.SIGTERM, "start.py")  # as Kubernetes ends a pod: all ranks save
    (tmp_path / f"{last}-leave").write_text("75")
    hosts.wait_for_round(1, 3)

    (tmp_path / "done").touch()
    codes = [launcher.wait(60) for launcher in launchers]
    assert codes == [ExitCode.DONE, ExitCode.PREEMPTED, ExitCode.DONE], hosts.describe()
    assert "Traceback" not in hosts.describe()
