"""Starts ranks: on every node of the SLURM job that this process runs in, or on this machine."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from model.errors import UserError
from pretrain.launch.gpus import RANKS_WITHOUT_GPUS, count_gpus, ranks_of_node
from pretrain.launch.hosts import Hosts, run_on_hosts
from pretrain.launch.local import run_here
from pretrain.launch.node import run_node
from pretrain.launch.outcome import ExitCode
from pretrain.launch.slurm import Job, Task, gpus_of_job, in_task, is_running, requeue
from pretrain.launch.survivors import Pool, run_job
from pretrain.launch.tolerance import DETECT_SECONDS, Tolerance

REQUEUED: dict[int, str] = {
    ExitCode.PREEMPTED: "saved",
    ExitCode.HUNG: "a rank hung",
    ExitCode.PEER_LOST: "a rank was lost",
}
"""Exit codes after which a job starts again, and why. How often it may is up to the run (`faults.restarts`)."""


TOLERANT_OF_NOTHING = Tolerance()


def is_first() -> bool:
    """Whether this process speaks for all of its kind: rank 0, or the first of srun's tasks."""
    number = os.environ.get("RANK") or (os.environ.get("SLURM_PROCID") if in_task() else None)
    return number in (None, "", "0")


def expected_ranks(nproc: int | None, max_nodes: int | None = None, spare: int = 0) -> int:
    """How many ranks there will be on all nodes, as far as this process can tell: each node counts its own GPUs.

    `nproc`: how many on each node; None: one for each GPU, or 2 without. Of a job's nodes at most `max_nodes` are used,
    and `spare` are kept back.
    """
    if nproc is not None and nproc < 1:
        raise UserError(f"--nproc {nproc} is too few; give at least 1")
    job, task = Job.from_environment(), Task.from_environment()
    if job is None:
        return (nproc or ranks_of_node()) * (len(task.nodes) if task else 1)
    nodes = Pool(job, max_nodes, spare).usable()
    if nproc is None and (gpus := gpus_of_job(job, nodes)):
        return gpus
    is_node = "SLURMD_NODENAME" in os.environ  # salloc's shell may be on a machine that is not of the job
    return len(nodes) * (nproc or (count_gpus() if is_node else 0) or RANKS_WITHOUT_GPUS)


def start_ranks(
    module: Sequence[str],
    nproc: int | None,
    tell: Callable[[int, bool], None] = lambda code, is_requeued: None,
    tolerance: Tolerance = TOLERANT_OF_NOTHING,
    hosts: Hosts | None = None,
    stage_in: Path | None = None,
) -> int:
    """Runs `python -m MODULE ARGUMENTS` in `nproc` ranks per node and waits. Returns the exit code they agreed on.

    None: as many as each node has GPUs, or 2. In a task of srun it runs this node's part. `tell` hears the exit code,
    and whether the job goes back into the queue, just before it does. `tolerance`: how a job goes on without a node.
    `hosts`: this machine is one of several, without SLURM.
    `stage_in`: the folder on the nodes' own disks that takes a copy of the environment, in a job.
    """
    sys.stdout.flush()
    if hosts:
        code, is_first_host = run_on_hosts(hosts, module, nproc or ranks_of_node(), tolerance)
        if is_first_host:
            tell(code, False)
        return code
    job, task = Job.from_environment(), Task.from_environment()
    if job:
        code = run_job(job, module, nproc, tolerance, stage_in)
        tell(code, code in REQUEUED and is_running(job))
        if code in REQUEUED:
            requeue(job, REQUEUED[code])
        return code
    if task:
        os.environ.setdefault(DETECT_SECONDS, str(tolerance.detect_seconds))
    code = run_node(task, module, nproc or ranks_of_node()) if task else run_here(module, nproc or ranks_of_node())
    if is_first():
        tell(code, False)
    return code


def start_once(module: Sequence[str], nproc: int | None) -> int:
    """The same for ranks that look or measure: they save nothing, and their job never goes back into the queue."""
    sys.stdout.flush()
    job, task = Job.from_environment(), Task.from_environment()
    if job:
        return run_job(job, module, nproc, TOLERANT_OF_NOTHING)
    return run_node(task, module, nproc or ranks_of_node()) if task else run_here(module, nproc or ranks_of_node())


def train_arguments(recipe: str, overrides: Sequence[str], name: str | None, runs: Path) -> list[str]:
    """The command line of the verb `train`, from the verb on."""
    arguments = ["train", recipe, "--runs", str(runs)]
    if name is not None:
        arguments += ["--name", name]
    return arguments + [word for override in overrides for word in ("--set", override)]
