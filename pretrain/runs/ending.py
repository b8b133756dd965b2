"""The end of a run as its launcher sees it: written down where no rank could, and told to `faults.notify`.

Rank 0 writes into the journal why it leaves. A rank that was killed cannot, nor can one that hangs.
"""

import os
import signal
import uuid
from pathlib import Path

from pretrain.launch.job import LAUNCH
from pretrain.launch.outcome import ExitCode
from pretrain.runs import journal
from pretrain.runs.journal import ENDS, STARTS
from pretrain.runs.notify import notify

CAUSES: dict[int, str] = {
    ExitCode.MISTAKE: "a fault that a restart does not mend; its output says which",
    ExitCode.PEER_LOST: "a rank was lost",
    ExitCode.HUNG: "a rank hung; its output says which",
}


def begin_launch() -> None:
    """For this process and all that it starts."""
    os.environ[LAUNCH] = uuid.uuid4().hex


def end_launch(folder: Path, command: str | None, code: int, is_requeued: bool) -> None:
    """In the launcher, once its ranks have left with `code`; before the job goes back into the queue, if it does."""
    entries = journal.read(folder)
    starts = [index for index, entry in enumerate(entries) if entry["event"] in STARTS]
    begun = bool(starts) and entries[starts[-1]].get("launch") == os.environ.get(LAUNCH)
    after = entries[starts[-1] :] if begun else []
    end = next((entry for entry in reversed(after) if entry["event"] in ENDS), None)
    if end is None and code not in (ExitCode.DONE, ExitCode.PREEMPTED):
        end = {"event": "stopped" if code == ExitCode.INTERRUPTED else "failure", "cause": cause_of(code), "code": code}
        if begun:  # else the folder is another run's, or holds what this launch has left as it was
            end = journal.write(folder, **end, step=_last_step(folder))
    if is_requeued and begun:
        journal.write(folder, "requeued", job=os.environ.get("SLURM_JOB_ID"))
    if end is not None:
        notify(command, folder, end)


def _last_step(folder: Path) -> int | None:
    return next((line["step"] for line in reversed(journal.tail(folder / "metrics.jsonl"))), None)


def cause_of(code: int) -> str:
    if code == ExitCode.INTERRUPTED:
        return "Ctrl-C"
    if 128 < code < 128 + signal.NSIG:
        return f"a rank was killed by {signal.Signals(code - 128).name}"
    return CAUSES.get(code, f"exit code {code}")
