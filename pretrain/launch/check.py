"""The check before ranks start: one plain process, so that a user's mistake is one line and not a failure of all."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from pretrain.launch.local import POLL_SECONDS, start_child
from pretrain.launch.outcome import ExitCode, shell_code
from pretrain.launch.pause import pause
from pretrain.launch.requests import Requests
from pretrain.launch.slurm import Job, requeue, say


def run_check(arguments: Sequence[str]) -> int:
    """Runs a verb that writes nothing. Returns its exit code.

    A signal that asks a run to save itself ends the check at once: there is nothing to save yet, and whoever asks may
    not wait long. The code is then PREEMPTED, and a job goes back into the queue.
    """
    with Requests() as requests:
        check = start_child([sys.executable, "-m", "pretrain", *arguments])
        try:
            while check.poll() is None:
                request = requests.take()
                if request == signal.SIGTSTP:
                    pause(check.pid)
                elif request == signal.SIGINT:
                    return ExitCode.INTERRUPTED
                elif request is not None:
                    return _not_started(request)
                with suppress(subprocess.TimeoutExpired):
                    check.wait(POLL_SECONDS)
        finally:
            check.kill()
            check.wait()
    return shell_code(check.returncode)


def _not_started(request: signal.Signals) -> int:
    reason = f"{request.name} received before the run had started"
    job = Job.from_environment()
    if job:
        requeue(job, reason)
    else:
        say(f"{reason}: there is nothing to save; the same command starts it")
    return ExitCode.PREEMPTED
