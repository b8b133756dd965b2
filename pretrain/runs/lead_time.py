"""How long before its end a job has to be told, so that the run is saved in time. No torch.

From a signal to a saved run it takes at most the longest time between two steps' ends, or from the start to the first
one, and a checkpoint. A run measures both and keeps the result in its journal.
"""

import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pretrain.runs import journal

MARGIN = 1.5
LEAST_SECONDS = 30
SIGNAL = re.compile(r"(?:[RB]+:)?(?:SIG)?\w+?(?:@(\d+))?$")
SBATCH_LINE = re.compile(r"^#SBATCH\s(?:.*\s)?--signal[= ](\S+)", re.MULTILINE)
DEFAULT_SECONDS = 60
"""Of `--signal` without a number."""


def advised_seconds(step_seconds: float, save_seconds: float) -> int:
    """With a margin, in tens of seconds."""
    return max(LEAST_SECONDS, 10 * math.ceil(MARGIN * (step_seconds + save_seconds) / 10))


def measured(folder: Path) -> int | None:
    """What the run in a folder needs, as it has measured."""
    return next((entry["seconds"] for entry in reversed(journal.read(folder)) if entry["event"] == "lead"), None)


def lead_lines(seconds: int | None, signals: Sequence[str]) -> Iterator[str]:
    """What `--signal` should be, and what is wrong with this job's; nothing before it was measured."""
    if seconds is None:
        return
    option = f"--signal=B:{option_name(signals)}@{seconds}"
    yield f"a signal has to come {seconds} s before the end of a job, for the run to be saved in time: {option}"
    given = given_seconds()
    if given is not None and given < seconds:
        yield f"warning: the --signal of this job comes {given} s before its end, which is too late: give it {option}"
    limit = time_limit()
    if limit is not None and limit < seconds:
        yield f"warning: the time limit of this job is {limit} s, less than it takes to start and save: raise it"


def has_slurm() -> bool:
    """Whether jobs are submitted from here, or this is one."""
    return "SLURM_JOB_ID" in os.environ or shutil.which("sbatch") is not None


def option_name(signals: Sequence[str]) -> str:
    """USR1, for SIGUSR1: one of `faults.signals` that means nothing else, if there is one."""
    preferred = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGTERM")
    return next((name for name in preferred if name in signals), "SIGTERM").removeprefix("SIG")


def given_seconds() -> int | None:
    """How long before its end this job is told, where its script or environment says so; an option of sbatch's command
    line is known to SLURM alone, which does not tell it."""
    option = os.environ.get("SBATCH_SIGNAL")
    if not option and (job := os.environ.get("SLURM_JOB_ID")):
        found = SBATCH_LINE.search(_ask("scontrol", "write", "batch_script", job, "-"))
        option = found and found[1]
    if not option or not (parts := SIGNAL.match(option)):
        return None
    return int(parts[1] or DEFAULT_SECONDS)


def time_limit() -> int | None:
    """Of this job, in seconds; None outside a job, and where there is none."""
    job = os.environ.get("SLURM_JOB_ID")
    said = _ask("scontrol", "show", "job", job) if job else ""
    found = re.search(r"\bTimeLimit=(?:(\d+)-)?(\d+):(\d+):(\d+)", said)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _ask(*command: str) -> str:
    """Without its complaints: a job of salloc has no script."""
    with suppress(OSError):
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return ""
