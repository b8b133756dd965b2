"""One srun with a task on every node of a step: its command, its messages, and how it ended."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from pretrain.launch import environment, start_up
from pretrain.launch.local import POLL_SECONDS, start_child
from pretrain.launch.outcome import ExitCode, shell_code
from pretrain.launch.requests import Requests
from pretrain.launch.slurm import COUNT_GPUS, Job, ask, gpus_by_node, say

SHARED_OUT_BY_TORCHRUN = (
    *("SLURM_CPUS_PER_TASK", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_NTASKS_PER_GPU"),
    *("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_SOCKET"),
)
"""What the job asked for each task, or in other words than `step_command`; srun would divide the nodes by it."""

OF_ONE_NODE = ("SLURM_GPUS_ON_NODE", "SLURMD_NODENAME", "SLURM_NODEID", "SLURM_LOCALID", "SLURM_PROCID")
"""What SLURM says of the node that this process is on."""

LABEL = re.compile(rb" *(\d+): ?")
"""srun begins every line of a task with the task's number; its own lines have none."""

FAILURE = re.compile(r"srun: error: \S+: tasks? ([\d,-]+): (.+)")
NOT_STARTED = re.compile(r"srun: error: Task launch for \S+ failed on node (\S+): (.+)")
NODE_FAILURE = re.compile(r"srun: error: Node failure on (\S+)")
LOST = re.compile(r"espalier: node (\S+) is lost: (.+)")
"""What a node says of another (pulse.py)."""

EXIT_CODE = re.compile(r"Exited with exit code (\d+)")
SIGNALS = {"Killed": 137, "Terminated": 143, "Aborted": 134, "Segmentation fault": 139, "Out Of Memory": 137}
NOISE = re.compile(
    r"srun: (Job step aborted|launch/slurm|Force Terminated|Terminating|cluster configuration lacks support)"
    r"|srun: error: Timed out waiting for job step|slurmstepd\S*: error: \*\*\* STEP"
)
"""What SLURM says of every step that ends before its time."""

BYSTANDERS = (ExitCode.PEER_LOST, 137, 143)
"""Exit codes of tasks that ended because another had: they lost it, or srun ended them."""

NOBODYS = (ExitCode.HUNG, ExitCode.REGROUP, ExitCode.PREEMPTED)
"""Exit codes for which no node is at fault. The first node tells them for all."""

LEAVE_SECONDS = 3.0
"""How long the others may take to leave once a node is lost: their ranks are killed. srun may not say so."""

NUM_LAST_LINES = 20


@dataclass
class Step:
    """What is heard of a step while it runs."""

    nodes: Sequence[str]
    """In the order of their tasks."""
    codes: dict[str, int] = field(default_factory=dict)
    """Of nodes whose tasks failed, in that order."""
    lost: dict[str, str] = field(default_factory=dict)
    """Nodes that are gone, and how that is known."""
    last_lines: dict[str, deque[str]] = field(default_factory=dict)

    @property
    def code(self) -> int | None:
        """That of the first failure; None where no task failed."""
        return first_failure(list(self.codes.values()))

    @property
    def failed(self) -> dict[str, str]:
        """The nodes at fault, and what happened there; empty where that is not known."""
        if self.lost:
            return self.lost
        own = [(node, code) for node, code in self.codes.items() if code not in BYSTANDERS]
        first = own or [(node, code) for node, code in list(self.codes.items())[:1] if code != ExitCode.PEER_LOST]
        return {node: f"its part ended with exit code {code}" for node, code in first[:1] if code not in NOBODYS}

    @property
    def has_left(self) -> bool:
        """Whether all but the lost nodes have ended."""
        return set(self.nodes) <= self.codes.keys() | self.lost.keys()

    def lose(self, name: str, reason: str, witness: str | None = None) -> None:
        """The first node knows better than another one that has lost it."""
        if name in self.nodes and name not in self.lost and (witness in (None, self.nodes[0]) or not self.lost):
            if name == os.environ.get("SLURMD_NODENAME") and witness is not None:
                name, reason = witness, f"it cannot reach {name}"  # on which this process lives
            self.lost[name] = reason

    def pass_on(self, lines: Iterable[bytes], out: BinaryIO) -> None:
        """Copies srun's output to this process's, without what it says of tasks that end.

        A task that was killed could not say so itself: the first such is reported.
        """
        for labelled in lines:
            label = LABEL.match(labelled)
            line = labelled[label.end() :] if label else labelled
            text = line.decode("utf-8", "replace").rstrip()
            node = self.nodes[int(label[1])] if label and int(label[1]) < len(self.nodes) else None
            if node is not None:
                self.last_lines.setdefault(node, deque(maxlen=NUM_LAST_LINES)).append(text)
                if lost := LOST.match(text):
                    self.lose(lost[1], lost[2], witness=node)
            elif failure := FAILURE.match(text):
                for number in _numbers(failure[1]):
                    self._fail(self.nodes[number], failure[2])
                continue
            elif gone := NOT_STARTED.match(text):
                self.lose(gone[1], gone[2])
            elif gone := NODE_FAILURE.match(text):
                self.lose(gone[1], "SLURM has lost it")
            if not NOISE.match(text):
                with suppress(OSError):  # whoever read them may have gone; srun must not wait for it
                    out.write(line)
                    out.flush()

    def _fail(self, node: str, end: str) -> None:
        if not self.codes and not EXIT_CODE.match(end):
            say(f"{node}: {end}")
        self.codes.setdefault(node, _code_of(end))


Call = Callable[[Sequence[str]], list[str]]
"""A command from the words for Python."""


def shared_python(words: Sequence[str]) -> list[str]:
    """This process's, which all nodes see."""
    return [sys.executable, *words]


def run_step(
    job: Job,
    nodes: Sequence[str],
    module: Sequence[str],
    nproc: int | None,
    after_another: bool,
    variables: Mapping[str, str],
    look: Callable[[], None] = lambda: None,
    python: Call = shared_python,
) -> tuple[int, Step]:
    """Runs a task on each node and passes signals on to all. Returns the exit code of the task that failed first.

    `after_another`: the job has had a step before. Calls `look` now and then. Does not wait for a node that is lost:
    SLURM takes minutes to notice. `python`: the one that nodes use.
    """
    step = Step(nodes)
    command = step_command(job, nodes, module, nproc, after_another, python)
    with Requests() as requests:
        srun = start_child(command, {**step_environment(), **variables}, subprocess.PIPE, stderr=subprocess.PIPE)
        assert srun.stdout is not None and srun.stderr is not None
        readers = [
            threading.Thread(target=step.pass_on, args=(lines, out), daemon=True)
            for lines, out in ((srun.stdout, sys.stdout.buffer), (srun.stderr, sys.stderr.buffer))
        ]
        for reader in readers:
            reader.start()
        lost_at: float | None = None
        while srun.poll() is None:
            request = requests.take()
            if request == signal.SIGTSTP:
                srun.send_signal(signal.SIGCONT)  # which has had it, too
                say("Ctrl-Z does not stop the nodes of a job: they train on; Ctrl-C ends the run")
            elif request not in (None, signal.SIGINT):  # Ctrl-C reaches srun itself
                _signal_job(job, request)
            if step.lost:
                lost_at = lost_at or time.monotonic()
                if step.has_left or time.monotonic() - lost_at > LEAVE_SECONDS:
                    srun.kill()
            else:
                look()
            with suppress(subprocess.TimeoutExpired):
                srun.wait(POLL_SECONDS)
        for reader in readers:
            reader.join(LEAVE_SECONDS)
    if step.lost and srun.returncode:
        _end_steps(job)
        return ExitCode.PEER_LOST, step
    return step.code or shell_code(srun.returncode), step


def step_command(
    job: Job,
    nodes: Sequence[str],
    module: Sequence[str],
    nproc: int | None,
    after_another: bool,
    python: Call = shared_python,
) -> list[str]:
    one_task_each = [f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", "--cpu-bind=none"]
    gpus = [count for name, count in gpus_by_node(job).items() if name in nodes]
    all_gpus = [f"--gpus={sum(gpus)}"] if sum(gpus) else []
    task = python(["-m", "pretrain.launch.node", str(nproc or COUNT_GPUS), *module])
    options = ["--label", "--kill-on-bad-exit=1"]
    if after_another:  # what is left of that on a lost node must hold nothing back
        options.append("--overlap")
        if fewest := min(gpus, default=0):  # where steps overlap, srun gives no node more than the one with the fewest
            all_gpus = [f"--gpus-per-node={fewest}"]
    return ["srun", f"--nodelist={','.join(nodes)}", *one_task_each, *all_gpus, *options, *task]


def step_environment() -> dict[str, str]:
    """This process's, without what each node decides for itself."""
    left_out = {*environment.added, *SHARED_OUT_BY_TORCHRUN, *OF_ONE_NODE}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, **start_up.begun()}


def first_failure(codes: Sequence[int]) -> int | None:
    """The first that is not of a bystander; the first where all are."""
    return next((code for code in codes if code not in BYSTANDERS), codes[0] if codes else None)


def _numbers(ranges: str) -> list[int]:
    """0,2-3 -> 0, 2, 3"""
    pairs = (part.partition("-") for part in ranges.split(","))
    return [number for first, _, last in pairs for number in range(int(first), int(last or first) + 1)]


def _code_of(end: str) -> int:
    exited = EXIT_CODE.match(end)
    if exited:
        return int(exited[1])
    return next((code for word, code in SIGNALS.items() if end.startswith(word)), 1)


def _signal_job(job: Job, number: signal.Signals) -> None:
    """To all of its steps. A job that is being cancelled has had the signal from SLURM, which then refuses."""
    subprocess.run(["scancel", f"--signal={number.name}", str(job.id)], stderr=subprocess.DEVNULL)


def _end_steps(job: Job) -> None:
    """What is left of steps, on nodes that are cut off or frozen, ends when they can be reached again."""
    steps = ask("squeue", "--noheader", "--steps", f"--jobs={job.id}", "--format=%i").split()
    numbered = [step for step in steps if step.rpartition(".")[2].isdigit()]

    def cancel() -> None:  # scancel waits for nodes that do not answer
        for step in numbered:
            subprocess.run(["scancel", "--signal=KILL", step], stderr=subprocess.DEVNULL)

    threading.Thread(target=cancel, name="scancel", daemon=True).start()
