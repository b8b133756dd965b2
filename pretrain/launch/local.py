"""Ranks on this machine: torchrun with N processes, cores divided among them, signals passed on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO

from pretrain.launch import leash, start_up
from pretrain.launch.gpus import check_ranks
from pretrain.launch.outcome import ExitCode, agreed_code, shell_code
from pretrain.launch.pause import children, pause, signal_all
from pretrain.launch.requests import PASSED_ON, Requests
from pretrain.launch.slurm import say

POLL_SECONDS = 0.2
SAVING_SECONDS = 60.0
"""How long ranks may take to save themselves once their time is over."""


def run_here(module: Sequence[str], nproc: int, seconds: float | None = None, output: IO[bytes] | None = None) -> int:
    """Runs `python -m MODULE ARGUMENTS` in `nproc` ranks of this machine and waits for them.

    After `seconds` the ranks are asked to save themselves and leave, as SIGTERM would ask them. `output` takes what
    they print. Returns the exit code that the ranks agreed on, else torchrun's.
    """
    return agreed_code(
        lambda variables: run_ranks(module, nproc, ["--standalone"], variables, seconds=seconds, output=output)
    )


def run_ranks(
    module: Sequence[str],
    nproc: int,
    rendezvous: Sequence[str],
    variables: Mapping[str, str],
    seconds: float | None = None,
    output: IO[bytes] | None = None,
    must_leave: Callable[[], bool] = lambda: False,
) -> int:
    """torchrun with this machine's ranks. `rendezvous`: torchrun's options for it; `variables`: the ranks' own.

    Once it is true that they `must_leave`, because another node is gone, all are killed, and the code is PEER_LOST.

    A signal goes to the ranks, again and again until they have left: torchrun would kill them after half a minute, and
    one that comes while they still start would be lost. Ctrl-C asks them as SIGTERM does; the second one ends
    everything at once. Ctrl-Z stops all of it, until this process is continued.

    Raises UserError where there are GPUs, but fewer than ranks.
    """
    check_ranks(nproc)
    with Requests() as requests:
        command = torchrun_command(module, nproc, rendezvous)
        environment = {**rank_environment(nproc), **start_up.begun(), **variables}
        agent = start_child(command, environment, output, preexec=_ignore_signals)
        deadline = time.monotonic() + seconds if seconds is not None else float("inf")
        asked: signal.Signals | None = None
        interrupted = False
        try:
            while agent.poll() is None:
                request = requests.take()
                if request == signal.SIGINT and interrupted:
                    agent.kill()
                elif request == signal.SIGINT:
                    say("Ctrl-C: a run saves itself after this step and ends; press it again to end at once")
                    interrupted, asked = True, signal.SIGTERM
                elif request == signal.SIGTSTP:
                    pause(agent.pid)
                elif request is not None:
                    asked = request
                if must_leave():
                    return ExitCode.PEER_LOST
                if time.monotonic() > deadline + SAVING_SECONDS:
                    agent.kill()
                elif time.monotonic() > deadline:
                    asked = asked or signal.SIGTERM
                if asked is not None:
                    signal_all(children(agent.pid), asked)
                with suppress(subprocess.TimeoutExpired):
                    agent.wait(POLL_SECONDS)
        finally:
            agent.kill()
            agent.wait()
    return ExitCode.INTERRUPTED if interrupted else shell_code(agent.returncode)


def torchrun_command(module: Sequence[str], nproc: int, rendezvous: Sequence[str]) -> list[str]:
    """The only place where torchrun's command line is written."""
    agent = [sys.executable, "-m", "pretrain.launch.agent", *rendezvous, f"--nproc-per-node={nproc}"]
    return [*agent, "-m", "pretrain.launch.rank", *module]


def rank_environment(nproc: int) -> dict[str, str]:
    """This process's environment, with the cores shared out among the ranks and torchrun's options set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": str(max(1, cores // nproc)),
        **os.environ,
        # torchrun: the other signals are the launcher's to pass on.
        "PET_SIGNALS_TO_HANDLE": "SIGINT,SIGQUIT",
        "PET_SHUTDOWN_TIMEOUT": "10",
    }


def start_child(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | int | None = None,
    preexec: Callable[[], None] | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process that dies with this one. `output` takes stdout and, unless `stderr` says otherwise, stderr.

    `preexec` runs in it before its program does.
    """
    parent = os.getpid()

    def prepare() -> None:
        leash.die_with_parent(parent)
        if preexec:
            preexec()

    if output is not None and stderr is None:
        stderr = subprocess.STDOUT
    return subprocess.Popen(command, env=environment, stdout=output, stderr=stderr, preexec_fn=prepare)


def run_verb(*arguments: str) -> int:
    """One verb in a separate plain process. Returns its exit code."""
    return run_module("pretrain", *arguments)


def run_module(module: str, *arguments: str) -> int:
    """`python -m MODULE` in a separate plain process. Returns its exit code."""
    return shell_code(start_child([sys.executable, "-m", module, *arguments]).wait())


def _ignore_signals() -> None:
    """In the agent, and so in ranks until they listen: a signal meant for ranks must not end torchrun."""
    os.setpgid(0, 0)  # Ctrl-C reaches the launcher alone, which decides
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_IGN)
