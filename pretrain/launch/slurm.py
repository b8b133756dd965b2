"""Ranks on all nodes of a SLURM job: `sbatch [OPTIONS] launch.sh train RECIPE`, or the same verb within salloc.

One srun task on every node starts torchrun there (node.py). `srun --ntasks-per-node=1 launch.sh train RECIPE` brings
the tasks along: each is its node's part of the run. docs/multi-node.md has examples.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from model.errors import UserError
from pretrain.launch import environment
from pretrain.launch.local import POLL_SECONDS, start_child
from pretrain.launch.outcome import ExitCode, agreed_code, shell_code
from pretrain.launch.requests import Requests

COUNT_GPUS = "gpus"
"""In place of a number of ranks: each node starts one for each of its GPUs."""

FIRST_RESERVED_STEP = 0xFFFFFFF0
"""From here on SLURM numbers what is not a task of srun: the batch script, the shell that salloc opens on a node."""

SHARED_OUT_BY_TORCHRUN = (
    *("SLURM_CPUS_PER_TASK", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_NTASKS_PER_GPU"),
    *("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_SOCKET"),
)
"""What the job asked for each task, or in other words than `step_command`; srun would divide the nodes by it."""

OF_ONE_NODE = ("SLURM_GPUS_ON_NODE", "SLURMD_NODENAME", "SLURM_NODEID", "SLURM_LOCALID", "SLURM_PROCID")
"""What SLURM says of the node that this process is on."""


@dataclass(frozen=True)
class Job:
    """The job that this process runs in, as SLURM's variables describe it."""

    id: int
    num_nodes: int
    nodelist: str
    """Compressed, such as gpu[01-04]."""
    restarts: int
    """How often SLURM has put it back into the queue."""

    @classmethod
    def from_environment(cls) -> "Job | None":
        """None outside a job and in a task of srun."""
        if "SLURM_JOB_ID" not in os.environ or in_task() or shutil.which("srun") is None:
            return None
        return cls(
            id=number_of("SLURM_JOB_ID"),
            num_nodes=number_of("SLURM_JOB_NUM_NODES"),
            nodelist=os.environ["SLURM_JOB_NODELIST"],
            restarts=number_of("SLURM_RESTART_COUNT", 0),
        )


@dataclass(frozen=True)
class Task:
    """The srun task that this process is, one of a step with one on every node."""

    key: str
    """Of the step, and of the start of its job."""
    job_id: int
    nodes: tuple[str, ...]
    index: int
    """Of this task's node among them."""

    @classmethod
    def from_environment(cls) -> "Task | None":
        """None for what is not a task of srun. Raises UserError when the step has several tasks on a node."""
        if "SLURM_JOB_ID" not in os.environ or not in_task():
            return None
        num_tasks, num_nodes = number_of("SLURM_STEP_NUM_TASKS", 1), number_of("SLURM_STEP_NUM_NODES", 1)
        if num_tasks != num_nodes:
            raise UserError(
                f"srun started {num_tasks} tasks on {num_nodes} node{'s'[: num_nodes > 1]}; "
                "start one on each, which starts the node's ranks: srun --ntasks-per-node=1"
            )
        return cls(
            key="-".join(
                os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")
            ),
            job_id=number_of("SLURM_JOB_ID"),
            nodes=tuple(hostnames(os.environ["SLURM_STEP_NODELIST"])),
            index=number_of("SLURM_NODEID"),
        )

    @property
    def name(self) -> str:
        """As SLURM calls this task's node."""
        return self.nodes[self.index]

    @property
    def is_head(self) -> bool:
        """The first node holds torchrun's rendezvous, and its ranks say the exit code."""
        return self.index == 0


def in_task() -> bool:
    return number_of("SLURM_STEP_ID", FIRST_RESERVED_STEP) < FIRST_RESERVED_STEP


def run_on_all_nodes(job: Job, module: Sequence[str], nproc: int | None) -> int:
    """Runs `python -m MODULE ARGUMENTS` in `nproc` ranks on every node; None: as many as each has GPUs, or 2.

    Requeues a job that saved itself on a signal. Returns the exit code.
    """
    code = agreed_code(lambda variables: run_step(job, variables, module, nproc))
    if code == ExitCode.PREEMPTED:
        requeue(job)
    return code


def run_step(job: Job, variables: Mapping[str, str], module: Sequence[str], nproc: int | None) -> int:
    """One srun: a task on each node. Passes signals on to all of them. Returns srun's exit code."""
    with Requests() as requests:
        srun = start_child(step_command(job, module, nproc), {**step_environment(), **variables})
        while srun.poll() is None:
            request = requests.take()
            if request not in (None, signal.SIGINT):  # Ctrl-C reaches srun itself
                subprocess.run(["scancel", f"--signal={request.name}", str(job.id)])
            with suppress(subprocess.TimeoutExpired):
                srun.wait(POLL_SECONDS)
    return shell_code(srun.returncode)


def step_command(job: Job, module: Sequence[str], nproc: int | None) -> list[str]:
    one_task_each = [f"--nodes={job.num_nodes}", f"--ntasks={job.num_nodes}", "--ntasks-per-node=1", "--cpu-bind=none"]
    gpus = gpus_of_job(job)
    all_gpus = [f"--gpus={gpus}"] if gpus else []
    task = [sys.executable, "-m", "pretrain.launch.node", str(nproc or COUNT_GPUS), *module]
    return ["srun", f"--nodelist={job.nodelist}", *one_task_each, *all_gpus, "--kill-on-bad-exit=1", *task]


def step_environment() -> dict[str, str]:
    """This process's, without what each node decides for itself."""
    left_out = {*environment.added, *SHARED_OUT_BY_TORCHRUN, *OF_ONE_NODE}
    return {name: value for name, value in os.environ.items() if name not in left_out}


def requeue(job: Job) -> None:
    """Puts a job that saved itself on a signal back into the queue, unless it was cancelled or its time is over."""
    if "JobState=RUNNING" not in ask("scontrol", "show", "job", str(job.id)):
        say("saved; the job was cancelled or its time is over: submit it again to resume")
        return
    say(f"saved; job {job.id} goes back into the queue (restart {job.restarts + 1})")
    if subprocess.run(["scontrol", "requeue", str(job.id)]).returncode:
        say("the job cannot be requeued; submit it again to resume")


def gpus_of_job(job: Job) -> int:
    """All that SLURM has given to the job, on whatever nodes they are; 0 where it does not count GPUs."""
    total = 0
    for line in ask("scontrol", "--details", "show", "job", str(job.id)).splitlines():
        nodes = re.search(r"\bNodes=(\S+) .*\bGRES=(\S+)", line)
        if nodes:
            each = sum(int(count) for count in re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)", nodes[2]))
            total += each * len(hostnames(nodes[1]))
    return total


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
