"""Whether a process trains in a run's folder at this moment. No torch."""

import fcntl
from contextlib import suppress
from pathlib import Path


def is_held(folder: Path) -> bool:
    with suppress(OSError), (folder / "lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
