"""The SLURM job, or the task of srun, that this process is in.

`sbatch [OPTIONS] launch.sh train RECIPE`, or the same verb within salloc, starts a task on every node (step.py), which
starts torchrun there (node.py). `srun --ntasks-per-node=1 launch.sh train RECIPE` brings the tasks along: each is its
node's part of the run. docs/multi-node.md has examples.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from model.errors import UserError

COUNT_GPUS = "gpus"
"""In place of a number of ranks: each node starts one for each of its GPUs."""

SLURMD_PORT = 6818
"""Unless SLURM says otherwise."""

GIVE_BACK_ATTEMPTS = 3

FIRST_RESERVED_STEP = 0xFFFFFFF0
"""From here on SLURM numbers what is not a task of srun: the batch script, the shell that salloc opens on a node."""


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
        """None for what is not a task of srun, and in the shell of `srun --ntasks=8 --pty bash` on one node.

        Raises UserError when the step has several tasks on a node otherwise.
        """
        if "SLURM_JOB_ID" not in os.environ or not in_task():
            return None
        num_tasks, num_nodes = number_of("SLURM_STEP_NUM_TASKS", 1), number_of("SLURM_STEP_NUM_NODES", 1)
        if num_tasks != num_nodes:
            if num_nodes == 1 and _has_terminal():
                return None
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


def _has_terminal() -> bool:
    """Whether this process is in the first task of `srun --pty`. The others read nothing and end."""
    return "SLURM_PTY_PORT" in os.environ and number_of("SLURM_PROCID", 0) == 0


def requeue(job: Job, reason: str) -> None:
    """Puts a job back into the queue, unless it was cancelled or its time is over."""
    if is_replaced(job):
        say(f"{reason}; job {job.id} has started again without this one")
        return
    if not is_running(job):
        say(f"{reason}; the job was cancelled or its time is over: submit it again to resume")
        return
    say(f"{reason}; job {job.id} goes back into the queue (restart {job.restarts + 1})")
    if subprocess.run(["scontrol", "requeue", str(job.id)]).returncode:
        say("the job cannot be requeued; submit it again to resume")


def give_back(job: Job, nodes: Collection[str]) -> None:
    """Takes nodes out of the job, which would end with them once SLURM notices that they are down."""
    now = nodes_now(job)
    left = [node for node in now if node not in nodes]
    if left in ([], now):
        return
    command = ["scontrol", "update", f"JobId={job.id}", f"NodeList={','.join(left)}"]
    for attempt in range(GIVE_BACK_ATTEMPTS):  # it may be about to note a requeue of the job
        if attempt:
            time.sleep(1)
        with tempfile.TemporaryDirectory(prefix="espalier-") as folder:  # scontrol leaves scripts where it runs
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode == 0:
            return
    say(f"SLURM keeps {' '.join(nodes)} in the job and may end it for that: {done.stderr.strip()}")


def is_running(job: Job) -> bool:
    """Whether the job is neither cancelled nor over its time."""
    return "JobState=RUNNING" in ask("scontrol", "show", "job", str(job.id))


def is_replaced(job: Job) -> bool:
    """Whether SLURM, which had lost this node, has started the job again."""
    restarts = re.search(r"\bRestarts=(\d+)", ask("scontrol", "show", "job", str(job.id)))
    return restarts is not None and int(restarts[1]) > job.restarts


def nodes_now(job: Job) -> list[str]:
    """The job's nodes: SLURM takes away those that it gives up, and one job may give some to another. Empty where SLURM
    does not answer."""
    found = re.search(r"^\s*NodeList=(\S+)", ask("scontrol", "show", "job", str(job.id)), re.MULTILINE)
    return hostnames(found[1]) if found else []


def gpus_of_job(job: Job, on: Sequence[str] | None = None) -> int:
    """What SLURM has given to the job on some nodes, by default all of its own; 0 where it does not count GPUs."""
    return sum(count for name, count in gpus_by_node(job).items() if on is None or name in on)


def gpus_by_node(job: Job) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in ask("scontrol", "--details", "show", "job", str(job.id)).splitlines():
        nodes = re.search(r"\bNodes=(\S+) .*\bGRES=(\S+)", line)
        if nodes:
            each = sum(int(count) for count in re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)", nodes[2]))
            found |= dict.fromkeys(hostnames(nodes[1]), each)
    return found


def hostnames(nodelist: str) -> list[str]:
    """gpu[01-02] -> gpu01, gpu02. SLURM's own expansion, where its commands are; a container may lack them."""
    if shutil.which("scontrol") is None:
        return expanded(nodelist)
    return ask("scontrol", "show", "hostnames", nodelist).split()


def expanded(nodelist: str) -> list[str]:
    """r[1-2]n[09-10,12],login -> r1n09, r1n10, r1n12, r2n09, ... , login"""
    names = []
    for name in re.findall(r"(?:[^,\[]|\[[^]]*\])+", nodelist):
        prefix, bracket, rest = name.partition("[")
        if not bracket:
            names.append(name)
            continue
        ranges, _, suffix = rest.partition("]")
        for span in ranges.split(","):
            first, _, last = span.partition("-")
            for number in range(int(first), int(last or first) + 1):
                names += expanded(f"{prefix}{number:0{len(first)}d}{suffix}")
    return names


def node_address(name: str) -> str:
    """The address by which SLURM itself reaches a node: its name may not resolve. In a container without SLURM's
    commands it has to."""
    return slurmd_places([name]).get(name, (name, 0))[0]


def slurmd_places(names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Addresses of nodes, and the ports of their slurmd, as far as SLURM knows them."""
    if not names or shutil.which("scontrol") is None:
        return {}
    nodes = ask("scontrol", "--oneliner", "show", "node", ",".join(names))
    found = re.findall(r"^NodeName=(\S+).*? NodeAddr=(\S+)(?:.*? Port=(\d+))?", nodes, re.MULTILINE)
    return {name: (address, int(port or SLURMD_PORT)) for name, address, port in found}


def ask(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout


def say(line: str) -> None:
    with suppress(OSError):  # a terminal that has gone: the run must still end as it should
        print(f"espalier: {line}", file=sys.stderr, flush=True)


def number_of(variable: str, default: int | None = None) -> int:
    """An environment variable that has to be a number. Raises UserError where it is something else."""
    text = os.environ.get(variable)
    if not text and default is not None:
        return default
    if text is None or not (text.isascii() and text.isdigit()):
        raise UserError(f"{variable} is {text!r}; it must be a whole number")
    return int(text)
