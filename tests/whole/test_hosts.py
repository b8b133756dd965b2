"""Hosts without SLURM, each a machine of its own: they meet, go on without one that is gone, and take one that comes.

The launchers are real, and so is the network. torchrun's place takes a stand-in, but in the last test.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pretrain.launch.outcome import ExitCode
from pretrain.training.train import train
from tests.support import machines
from tests.support.home import HOME
from tests.support.machines import Machine
from tests.support.tiny import same_bits, tiny_recipe, train_until, write_recipe
from tests.support.workers import pool

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
        pytest.skip(f"hosts cannot fail one by one here: {why_not}")
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
        command = [sys.executable, str(tmp_path / "start.py"), "10.77.0.11:29400", "1", "3"]
        return hosts.start(number, *command, PYTHONPATH=f"{HOME}:{tmp_path}", SAID=str(tmp_path))

    launchers = [start(number) for number in (1, 2, 3)]
    hosts.wait_for_round(1, 2, 3)

    hosts[2].signal(signal.SIGSTOP)
    hosts[3].cut()
    hosts.wait_for_round(1)
    for lost in ("host2", "host3"):
        assert f"espalier: node {lost} is lost: silent for" in hosts.said(1)
    hosts[2].signal(signal.SIGCONT)  # and they come again, by themselves
    hosts[3].mend()
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


def test_a_run_on_hosts_that_go_and_come_is_that_of_the_same_layouts(
    hosts: Hosts, corpus: Path, tmp_path: Path
) -> None:
    """With real ranks. A host's power fails in a step; it is back later, when the other trains alone."""
    changes = dict(
        stages=[{"name": "long", "steps": 100}],
        batch={"global": 12, "micro": 2},
        checkpoint={"every": 4, "keep_last": 40},
        validation={"rows": 4},
        faults={"detect_seconds": 4},
    )
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus, **changes)
    run, address = tmp_path / "runs" / "tiny", hosts[1].address

    def start(number: int) -> subprocess.Popen[bytes]:
        options = ["--runs", str(run.parent), "--nproc", "1", "--rdzv-endpoint", f"{address}:29400", "--nodes", "1:2"]
        command = [sys.executable, "-m", "pretrain", "train", str(recipe), *options]
        return hosts.start(number, *command, PYTHONPATH=str(HOME), OMP_NUM_THREADS="1")

    first, second = start(1), start(2)
    hosts.wait_for("runs/tiny/checkpoints/latest", timeout=300)
    hosts[2].cut()
    hosts[2].kill()
    second.wait(60)
    hosts.wait_until(lambda: len(starts(run)) == 2)
    hosts[1].signal(signal.SIGSTOP, "pretrain.launch.rank")  # until the other is back
    hosts[2].start()
    second = start(2)
    hosts.wait_until(lambda: "1 host more: host2" in hosts.said(1))
    hosts[1].signal(signal.SIGCONT, "pretrain.launch.rank")
    assert (first.wait(300), second.wait(60)) == (ExitCode.DONE, ExitCode.DONE), hosts.describe()

    both, alone, again = starts(run)
    assert [start["nodes"] for start in (both, alone, again)] == [["host1", "host2"], ["host1"], ["host1", "host2"]]
    assert alone["failed_nodes"] == ["host2"] and again["cause"] == "saved to continue on other nodes"
    assert 0 < alone["step"] < again["step"]
    for host in (1, 2):
        assert hosts[host].processes("pretrain") == []
    values = tiny_recipe(corpus, **changes)
    pool(2).run(train_until, values, tmp_path / "reference", alone["step"])
    pool(1).run(train_until, values, tmp_path / "reference", again["step"])
    pool(2).run(train, values, tmp_path / "reference")
    assert same_bits(run, tmp_path / "reference")


def starts(run: Path) -> list[dict]:
    file = run / "starts.json"
    return json.loads(file.read_text()) if file.exists() else []
