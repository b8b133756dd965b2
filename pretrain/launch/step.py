"""One srun with a task on every node of a job: its command, its signals, and which of its tasks failed first."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress

from pretrain.launch import environment, start_up
from pretrain.launch.local import POLL_SECONDS, start_child
from pretrain.launch.outcome import ExitCode, shell_code
from pretrain.launch.requests import Requests
from pretrain.launch.slurm import COUNT_GPUS, Job, gpus_of_job, say

SHARED_OUT_BY_TORCHRUN = (
    *("SLURM_CPUS_PER_TASK", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_NTASKS_PER_GPU"),
    *("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_SOCKET"),
)
"""What the job asked for each task, or in other words than `step_command`; srun would divide the nodes by it."""

OF_ONE_NODE = ("SLURM_GPUS_ON_NODE", "SLURMD_NODENAME", "SLURM_NODEID", "SLURM_LOCALID", "SLURM_PROCID")
"""What SLURM says of the node that this process is on."""

FAILURE = re.compile(r"srun: error: (\S+): tasks? [\d,-]+: (.+)")
EXIT_CODE = re.compile(r"Exited with exit code (\d+)")
SIGNALS = {"Killed": 137, "Terminated": 143, "Aborted": 134, "Segmentation fault": 139, "Out Of Memory": 137}
NOISE = re.compile(
    r"srun: (Job step aborted|launch/slurm|Force Terminated|Terminating|cluster configuration lacks support)"
    r"|srun: error: Timed out waiting for job step|slurmstepd: error: \*\*\* STEP"
)
"""What SLURM says of every step that ends before its time."""

BYSTANDERS = (ExitCode.PEER_LOST, 137, 143)
"""Exit codes of tasks that ended because another had: they lost it, or srun ended them."""


def run_step(job: Job, module: Sequence[str], nproc: int | None) -> int:
    """Runs a task on each node and passes signals on to all. Returns the exit code of the task that failed first."""
    with Requests() as requests:
        srun = start_child(step_command(job, module, nproc), step_environment(), stderr=subprocess.PIPE)
        assert srun.stderr is not None
        codes: list[int] = []
        reader = threading.Thread(target=pass_on, args=(srun.stderr, codes), daemon=True)
        reader.start()
        while srun.poll() is None:
            request = requests.take()
            if request == signal.SIGTSTP:
                srun.send_signal(signal.SIGCONT)  # which has had it, too
                say("Ctrl-Z does not stop the nodes of a job: they train on; Ctrl-C ends the run")
            elif request not in (None, signal.SIGINT):  # Ctrl-C reaches srun itself
                _signal_job(job, request)
            with suppress(subprocess.TimeoutExpired):
                srun.wait(POLL_SECONDS)
        reader.join()
    return first_failure(codes) or shell_code(srun.returncode)


def step_command(job: Job, module: Sequence[str], nproc: int | None) -> list[str]:
    one_task_each = [f"--nodes={job.num_nodes}", f"--ntasks={job.num_nodes}", "--ntasks-per-node=1", "--cpu-bind=none"]
    gpus = gpus_of_job(job)
    all_gpus = [f"--gpus={gpus}"] if gpus else []
    task = [sys.executable, "-m", "pretrain.launch.node", str(nproc or COUNT_GPUS), *module]
    return ["srun", f"--nodelist={job.nodelist}", *one_task_each, *all_gpus, "--kill-on-bad-exit=1", *task]


def step_environment() -> dict[str, str]:
    """This process's, without what each node decides for itself."""
    left_out = {*environment.added, *SHARED_OUT_BY_TORCHRUN, *OF_ONE_NODE}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, **start_up.begun()}


def pass_on(lines: Iterable[bytes], codes: list[int]) -> None:
    """Copies srun's stderr to this process's, without what it says of tasks that end: their exit codes go to `codes`.

    A task that was killed could not say so itself: the first such is reported.
    """
    for line in lines:
        text = line.decode("utf-8", "replace").rstrip()
        failure = FAILURE.match(text)
        if failure:
            node, end = failure.groups()
            code = _code_of(end)
            if not codes and not EXIT_CODE.match(end):
                say(f"{node}: {end}")
            codes.append(code)
        elif not NOISE.match(text):
            with suppress(OSError):  # whoever read them may have gone; srun must not wait for it
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()


def first_failure(codes: Sequence[int]) -> int | None:
    """The first that is not of a bystander; the first where all are."""
    return next((code for code in codes if code not in BYSTANDERS), codes[0] if codes else None)


def _code_of(end: str) -> int:
    exited = EXIT_CODE.match(end)
    if exited:
        return int(exited[1])
    return next((code for word, code in SIGNALS.items() if end.startswith(word)), 1)


def _signal_job(job: Job, number: signal.Signals) -> None:
    """To all of its steps. A job that is being cancelled has had the signal from SLURM, which then refuses."""
    subprocess.run(["scancel", f"--signal={number.name}", str(job.id)], stderr=subprocess.DEVNULL)
