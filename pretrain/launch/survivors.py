"""A job outlives its nodes: when one is lost, the run continues on those that are left, and takes those that come.

One step of srun after another, in one job. A run with `faults.min_nodes` is started again at once, from its newest
checkpoint, on the nodes that did not fail. SLURM notices minutes later (`SlurmdTimeout`) and ends jobs that have the
node, so it is given back before. `sbatch --no-kill` would prevent that, too; then SLURM does not requeue a job whose
first node fails, which runs the process that does all this. A run is asked to leave at its next checkpoint when there
are more nodes than it runs on (pretrain/training/hooks/regroup.py).

A user's mistake and a signal are not faults. A job that fails again and again without a step gained is given up, by the
ranks (pretrain/training/hooks/restarts.py) or, where they do not get as far, here.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from model.errors import UserError
from pretrain.launch.outcome import ExitCode
from pretrain.launch.requests import Requests
from pretrain.launch.slurm import Job, give_back, hostnames, is_running, nodes_now, say
from pretrain.launch.staging import stage
from pretrain.launch.step import Call, Step, run_step, shared_python
from pretrain.launch.tolerance import DETECT_SECONDS, REGROUP_FILE, Tolerance

CAUSE = "ESPALIER_CAUSE"
"""Environment variable: the Cause of this start, as JSON."""

ENDS = (ExitCode.DONE, ExitCode.MISTAKE, ExitCode.PREEMPTED, ExitCode.INTERRUPTED)
"""Exit codes after which a run is not started again within its job."""

REASONS: dict[int, str] = {
    ExitCode.HUNG: "a rank hung",
    ExitCode.PEER_LOST: "a rank lost another",
    ExitCode.REGROUP: "saved to continue on other nodes",
}
"""Why a run is started again, where no node is at fault."""

LOOK_SECONDS = 10.0
"""How often the job is asked for new nodes."""


@dataclass(frozen=True)
class Cause:
    """Why a run was started once more within its job. The run keeps it on record (starts.json)."""

    attempt: int = 0
    """Starts in this job, since it was last queued, before this one."""
    cause: str = ""
    """What ended the one before."""
    failed_nodes: Sequence[str] = ()
    last_lines: Sequence[str] = ()
    """What the first of them said last."""
    nodes: Sequence[str] = ()
    """That this start runs on."""

    @classmethod
    def from_environment(cls) -> "Cause":
        with suppress(ValueError, TypeError):
            return cls(**json.loads(os.environ.get(CAUSE, "{}")))
        return cls()


@dataclass
class Pool:
    """The nodes of a job that a run may use."""

    job: Job
    at_most: int | None = None
    spare: int = 0
    """Nodes kept back until another fails."""
    failed: set[str] = field(default_factory=set)
    """Not asked again, unless SLURM has taken them out of the job and given them back."""
    ever: set[str] = field(default_factory=set)
    latest: list[str] = field(default_factory=list)
    """As SLURM last said."""

    def usable(self) -> list[str]:
        if now := nodes_now(self.job):
            self.latest = now
            self.ever |= set(now)
            self.failed &= set(now)
        latest = self.latest or hostnames(self.job.nodelist)
        limit = max(len(self.ever or latest) - self.spare, 1)
        return [node for node in latest if node not in self.failed][: min(limit, self.at_most or limit)]


class Newcomers:
    """Asks a run to leave at its next checkpoint once there are more nodes than it has."""

    def __init__(self, pool: Pool, nodes: Sequence[str], folder: Path):
        self.pool, self.nodes, self.file = pool, nodes, folder / REGROUP_FILE
        self.next_look = time.monotonic() + LOOK_SECONDS
        self.has_asked = False

    def look(self) -> None:
        if self.has_asked or time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + LOOK_SECONDS
        usable = self.pool.usable()
        if len(usable) > len(self.nodes):
            with suppress(OSError):
                self.file.touch()
                self.has_asked = True
                new = [node for node in usable if node not in self.nodes]
                say(f"{count_of(new)} more: {' '.join(new)}; the run takes them at its next checkpoint")


def run_job(
    job: Job, module: Sequence[str], nproc: int | None, tolerance: Tolerance, stage_in: Path | None = None
) -> int:
    """Runs steps on the nodes of the job until the run is over. Returns the exit code of the last one.

    `stage_in`: the folder on the nodes' own disks that takes a copy of the environment.
    """
    pool = Pool(job, tolerance.max_nodes, tolerance.spare)
    nodes = pool.usable()
    fewest = tolerance.min_nodes or (len(nodes) if tolerance.spare else None)
    if fewest and len(nodes) < fewest:
        raise UserError(
            f"the job has {count_of(nodes)} to train on; the run needs {fewest} (faults.min_nodes, --nodes)"
        )
    cause, fruitless = Cause(nodes=nodes), 0
    with Requests() as requests, _python_of(pool, nodes, stage_in) as python:
        while True:
            variables = {DETECT_SECONDS: str(tolerance.detect_seconds)}
            if fewest:
                variables[CAUSE] = json.dumps(asdict(cause))
            come = Newcomers(pool, nodes, Path(tolerance.folder)) if fewest and tolerance.folder else None
            code, step = run_step(
                *(job, nodes, module, nproc, cause.attempt > 0, variables),
                *(come.look if come else lambda: None, python),
            )
            if code in ENDS or fewest is None:
                return code
            pool.failed |= step.failed.keys()
            left, reason = pool.usable(), _reason(step, code)
            if len(left) < fewest:
                say(f"{reason}; {count_of(left)} left, and the run needs {fewest}")
                return code
            if not is_running(job):
                return code
            if request := requests.take():
                say(f"{reason}; {request.name} received: the run is not started again")
                return ExitCode.PREEMPTED
            fruitless = 0 if has_begun(tolerance.folder, str(job.id), job.restarts, cause.attempt) else fruitless + 1
            if fruitless > tolerance.restarts:
                say(f"{reason}; {fruitless} starts in a row failed before the run began: it is given up")
                return ExitCode.MISTAKE
            give_back(job, step.failed)
            say(f"{reason}; the run continues on {count_of(left)}: {' '.join(left)}")
            nodes, cause = left, Cause(cause.attempt + 1, reason, *_last_words(step), left)


@contextmanager
def _python_of(pool: Pool, nodes: Sequence[str], stage_in: Path | None) -> Iterator[Call]:
    """The nodes' Python: a copy on their own disks, until the run is over, or the shared one."""
    if stage_in is None:
        yield shared_python
        return
    staged = stage(pool.job, nodes, stage_in)
    try:
        yield staged.command
    finally:
        alive = pool.usable()
        staged.remove([node for node in nodes if node in alive])


def _reason(step: Step, code: int) -> str:
    if step.failed:
        return ", ".join(f"node {node} failed: {what}" for node, what in step.failed.items())
    return REASONS.get(code, f"the run failed with exit code {code}")


def _last_words(step: Step) -> tuple[list[str], list[str]]:
    """The nodes at fault, and what the first of them said last."""
    failed = list(step.failed)
    return failed, [line for node in failed[:1] for line in step.last_lines.get(node, ())]


def count_of(nodes: Sequence[Any], what: str = "node") -> str:
    return f"{len(nodes)} {what}{'s'[: len(nodes) != 1]}"


def has_begun(folder: str | None, job: str, restart: int, attempt: int) -> bool:
    """Whether the run has got as far as its own record of starts, which it judges by itself."""
    return last_start(folder) == (job, restart, attempt)


def last_start(folder: str | None) -> tuple[str, int, int] | None:
    """The job, the restart and the attempt of the last one on record."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        last: dict[str, Any] = json.loads(Path(folder or "", "starts.json").read_text("utf-8"))[-1]
        return last["job"], last["restart"], last["attempt"]
    return None
