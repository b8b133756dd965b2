"""Waiting until nobody holds a run's folder."""

import os
import time
from contextlib import suppress
from pathlib import Path

from model.errors import UserError
from pretrain.launch.job import job_name
from pretrain.launch.slurm import say
from pretrain.lease.record import Lease, file_of, is_gone, newest_lease, request_to
from pretrain.lease.start import Start

POLL_SECONDS = 0.25
SILENT_SECONDS = 5.0
"""How long a lease stands still before the user hears of it."""

RENEWED = 2
"""How often a lease is renewed under this process's eyes before it counts as alive: the last rank of a run that was
killed may renew it once."""


def hold(folder: Path) -> Start:
    """Waits until nobody holds the run whose leases are in `folder`, and claims the next number."""
    while True:
        newest = wait_until_free(folder)
        with suppress(FileExistsError):  # somebody else was faster, and holds it
            return Start.claim(folder, newest + 1)


def wait_until_free(folder: Path) -> int:
    """Returns the number of the newest start, which is over; 0 if there was none.

    Waits as long as it takes for another start of the same job: cut off from SLURM, its ranks may live until their
    watchdog ends them. One rank alone misses nobody, so it is asked to leave. Raises UserError when another job holds
    the run.
    """
    (seen, stamp), still_seconds, renewals = _look(folder), 0.0, 0
    looked, told = time.monotonic(), False
    while seen is not None and not (seen.ended or is_gone(seen) or still_seconds >= seen.seconds):
        if renewals >= RENEWED and not _is_of_this_job(seen):
            raise UserError(
                f"a run is active in {folder.parent} ({seen.holder}); wait for it, or give this run another --name"
            )
        if not told and (renewals >= RENEWED or still_seconds > SILENT_SECONDS):
            say(_why_it_waits(seen, renewals > 0, folder.parent))
            told = True
        if renewals == RENEWED and _is_replaced(seen):
            with suppress(OSError):
                request_to(folder, seen.start).touch()
        time.sleep(POLL_SECONDS)
        newest, newest_stamp = _look(folder)
        now = time.monotonic()
        if (newest, newest_stamp) == (
            seen,
            stamp,
        ):
            still_seconds += min(now - looked, 2 * POLL_SECONDS)  # a disk that hangs holds up both sides
        else:
            is_renewed = newest is not None and newest.start == seen.start
            renewals, still_seconds = renewals + 1 if is_renewed else 0, 0.0
        seen, stamp, looked = newest, newest_stamp, now
    return seen.start if seen else 0


def _look(folder: Path) -> tuple[Lease | None, int]:
    """The newest lease, and the date of its file: on a full disk that is all that is renewed."""
    lease = newest_lease(folder)
    with suppress(OSError):
        return lease, file_of(folder, lease.start).stat().st_mtime_ns if lease else 0
    return lease, 0


def _is_of_this_job(lease: Lease) -> bool:
    return lease.job is not None and lease.job == job_name()


def _is_replaced(lease: Lease) -> bool:
    """Whether SLURM has started its job again since."""
    return "SLURM_JOB_ID" in os.environ and lease.requeued != os.environ.get("SLURM_RESTART_COUNT", "0")


def _why_it_waits(lease: Lease, is_alive: bool, run: Path) -> str:
    if not is_alive:
        return f"the run in {run} is held by a start that does not answer ({lease.holder}); waiting {lease.seconds:g} s"
    if "SLURM_JOB_ID" in os.environ and not _is_replaced(lease):
        return (
            f"another start of this job is active in {run} ({lease.holder}); waiting for its end: if both should "
            "train, give one of them another --name"
        )
    return f"an earlier start of this job is still active in {run} ({lease.holder}); waiting for its end"
