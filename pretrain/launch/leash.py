"""Children that die with their parent, whatever ends it: no rank outlives a killed torchrun or a killed launcher.

Linux sends the signal that a process asked for by PR_SET_PDEATHSIG when its parent dies, SIGKILL included. The kernel
watches the thread that started the child, so children are started from main threads only.
"""

import ctypes
import os
import signal
import sys

PARENT = "ESPALIER_PARENT"
"""Environment variable: the process id of the parent, for a child that asks only once it runs."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent: int | None = None, number: int = signal.SIGKILL) -> None:
    """Asks for `number` when the parent dies. Ends at once if it has died already. Does nothing outside Linux.

    `parent` is its process id; None: what the environment says, or whoever is the parent now.
    """
    if _libc is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    expected = parent or int(os.environ.get(PARENT) or os.getppid())
    if os.getppid() != expected:
        os._exit(128 + number)
