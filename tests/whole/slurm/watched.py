"""A run on the test cluster as it looks from outside: its job, its output and what it writes to its folder."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.runs import journal
from tests.support.cluster import Cluster
from tests.support.home import HOME
from tests.support.machines import Machine

PATIENCE_SECONDS = 400


@dataclass
class Watched:
    cluster: Cluster
    recipe: Path
    runs: Path
    disk: Path
    """The file system that `runs` is on."""
    boundaries: tuple[int, ...]
    """Steps at which a stage ends."""
    jobs: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.runs / "tiny"

    @property
    def job(self) -> str:
        return self.jobs[-1]

    def submit(self) -> None:
        environment = {"ESPALIER_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "ESPALIER_JOIN_SECONDS": "60"}
        options = dict(nodes=f"2-{len(self.cluster.nodes)}", requeue="", open_mode="append", chdir=str(HOME))
        command = (str(HOME / "launch.sh"), "train", str(self.recipe), "--runs", str(self.runs), "--nproc", "1")
        self.jobs.append(self.cluster.submit(*command, environment=environment, **options))

    def output(self) -> str:
        """Of all jobs."""
        return "".join(map(self.cluster.output, self.jobs))

    def starts(self) -> list[dict[str, Any]]:
        return [entry for entry in journal.read(self.folder) if entry["event"] in journal.STARTS]

    def leases(self) -> list[Path]:
        return list((self.folder / "leases").glob("*"))

    def step(self) -> int:
        return max((line["step"] for line in journal.tail(self.folder / "metrics.jsonl")), default=0)

    def nodes(self) -> list[Machine]:
        """On which the run trains."""
        names: list[str] = []
        with suppress(OSError, ValueError):
            names = json.loads((self.folder / "starts.json").read_text("utf-8"))[-1]["nodes"]
        return [node for node in self.cluster.nodes if node.name in names]

    def first(self) -> Machine:
        """That of the batch script."""
        return next(node for node in self.cluster.nodes if node.name == self.cluster.batch_host(self.job))

    def processes(self) -> set[int]:
        """Ranks and their launchers on all nodes that are on."""
        on = [node for node in self.cluster.nodes if node.is_on]
        return {pid for node in on for pid in node.processes("pretrain.launch")}

    def train(self, num_steps: int) -> None:
        wanted = self.step() + num_steps
        self.until(lambda: self.step() >= wanted, f"step {wanted}")

    def until(
        self, condition: Callable[[], bool], what: str, patience: float = PATIENCE_SECONDS, every: float = 0.05
    ) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {patience:.0f} s:\n{self.output()[-3000:]}")
            time.sleep(every)

    def repair_all(self) -> None:
        for node in self.cluster.nodes:
            self.cluster.repair(node)

    def keep(self, folder: Path) -> None:
        """What tells how it failed."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [
            *self.cluster.folder.glob("job-*.txt"),
            *self.cluster.folder.glob("*.log"),
            *self.folder.glob("*.json*"),
        ]
        for file in files:
            shutil.copy(file, folder)
