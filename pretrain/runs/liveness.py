"""Whether a process trains in a run's folder at this moment. No torch."""

import fcntl
import time
from contextlib import suppress
from pathlib import Path

from pretrain.lease import LEASES, newest_lease
from pretrain.lease.record import file_of, is_gone

SKEW_SECONDS = 10.0
"""How much the clocks of this machine and of the disk may differ."""


def is_held(folder: Path) -> bool:
    """By its lease, or by the lock of versions before there were leases."""
    lease = newest_lease(folder / LEASES)
    if lease is None:
        return _is_locked(folder / "lock")
    if lease.ended or is_gone(lease):
        return False
    with suppress(OSError):
        return time.time() - file_of(folder / LEASES, lease.start).stat().st_mtime < lease.seconds + SKEW_SECONDS
    return False


def _is_locked(file: Path) -> bool:
    with suppress(OSError), file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
