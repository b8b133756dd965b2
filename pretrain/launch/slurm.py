"""Ranks on all nodes of a SLURM job: `sbatch [OPTIONS] launch.sh train RECIPE`, or the same verb within salloc.

One srun task on every node starts torchrun there, and these find each other at a port of the first node.
docs/multi-node.md has examples.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from model.errors import UserError
from pretrain.launch import environment
from pretrain.launch.local import POLL_SECONDS, start_child
from pretrain.launch.outcome import ExitCode, agreed_code, shell_code
from pretrain.launch.requests import Requests

HEAD = "ESPALIER_HEAD"
"""Environment variable of a step: HOST:PORT at which its nodes meet."""

SHARED_OUT_BY_TORCHRUN = (
    *("SLURM_CPUS_PER_TASK", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE"),
    *("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK"),
)
"""What the job asked for each task; srun would divide the node by it."""


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Job:
    """The job that this process runs in, as SLURM's variables describe it."""

    id: int
    num_nodes: int
    nodelist: str
    """Compressed, such as gpu[01-04]."""
    gpus_per_node: int | None
    restarts: int
    """How often SLURM has put it back into the queue."""

    @classmethod
    def from_environment(cls) -> "Job | None":
        """None outside a job, and within a step: a task of srun is one process among others."""
        if "SLURM_JOB_ID" not in os.environ or os.environ.get("SLURM_STEP_ID") or shutil.which("srun") is None:
            return None
        return cls(
            id=number_of("SLURM_JOB_ID"),
            num_nodes=number_of("SLURM_JOB_NUM_NODES"),
            nodelist=os.environ["SLURM_JOB_NODELIST"],
            gpus_per_node=number_of("SLURM_GPUS_ON_NODE") if os.environ.get("SLURM_GPUS_ON_NODE") else None,
            restarts=number_of("SLURM_RESTART_COUNT", 0),
        )


def run_on_all_nodes(job: Job, module: Sequence[str], nproc: int) -> int:
    """Runs `python -m MODULE ARGUMENTS` in `nproc` ranks on every node. Requeues a job that saved itself on a signal.

    The first node, whose ranks say the exit code, is the one that runs this function.
    """
    nodes = hostnames(job.nodelist)
    head = Address(node_address(nodes[0]), number_of("MASTER_PORT", 20000 + job.id % 10000))
    code = agreed_code(lambda variables: run_step(job, nodes, head, variables, module, nproc))
    if code == ExitCode.PREEMPTED:
        requeue(job)
    return code


def run_step(
    job: Job, nodes: Sequence[str], head: Address, variables: Mapping[str, str], module: Sequence[str], nproc: int
) -> int:
    """One srun: a task on each of `nodes`. Passes signals on to all of them. Returns srun's exit code."""
    with Requests() as requests:
        srun = start_child(step_command(nodes, module, nproc), {**step_environment(head), **variables})
        while srun.poll() is None:
            request = requests.take()
            if request not in (None, signal.SIGINT):  # Ctrl-C reaches srun itself
                subprocess.run(["scancel", f"--signal={request.name}", str(job.id)])
            with suppress(subprocess.TimeoutExpired):
                srun.wait(POLL_SECONDS)
    return shell_code(srun.returncode)


def step_command(nodes: Sequence[str], module: Sequence[str], nproc: int) -> list[str]:
    one_task_each = [f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", "--cpu-bind=none"]
    task = [sys.executable, "-m", "pretrain.launch.node", str(nproc), *module]
    return ["srun", f"--nodelist={','.join(nodes)}", *one_task_each, "--kill-on-bad-exit=1", *task]


def step_environment(head: Address) -> dict[str, str]:
    """This process's, without what each node decides for itself."""
    left_out = {*environment.added, *SHARED_OUT_BY_TORCHRUN}
    return {name: value for name, value in os.environ.items() if name not in left_out} | {HEAD: str(head)}


def requeue(job: Job) -> None:
    """Puts a job that saved itself on a signal back into the queue, unless it was cancelled or its time is over."""
    if "JobState=RUNNING" not in ask("scontrol", "show", "job", str(job.id)):
        say("saved; the job was cancelled or its time is over: submit it again to resume")
        return
    say(f"saved; job {job.id} goes back into the queue (restart {job.restarts + 1})")
    if subprocess.run(["scontrol", "requeue", str(job.id)]).returncode:
        say("the job cannot be requeued; submit it again to resume")


def hostnames(nodelist: str) -> list[str]:
    """gpu[01-02] -> gpu01, gpu02"""
    return ask("scontrol", "show", "hostnames", nodelist).split()


def node_address(name: str) -> str:
    """The address by which SLURM itself reaches a node: its name may not resolve."""
    words = ask("scontrol", "show", "node", name).split()
    return next((word.partition("=")[2] for word in words if word.startswith("NodeAddr=")), name)


def ask(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout


def say(line: str) -> None:
    print(f"espalier: {line}", file=sys.stderr, flush=True)


def number_of(variable: str, default: int | None = None) -> int:
    """An environment variable that has to be a number. Raises UserError where it is something else."""
    text = os.environ.get(variable)
    if not text and default is not None:
        return default
    if text is None or not (text.isascii() and text.isdigit()):
        raise UserError(f"{variable} is {text!r}; it must be a whole number")
    return int(text)
