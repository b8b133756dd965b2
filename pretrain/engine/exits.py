"""How a run ends before its end: exit codes, and the way they take through torchrun."""

import os
from pathlib import Path

from model.errors import UserError

PREEMPTED = 75
"""The run saved itself on a signal and wants to be started again (EX_TEMPFAIL of sysexits.h)."""

HUNG = 70
"""A rank made no progress and the watchdog ended the run (EX_SOFTWARE)."""


class Stop(UserError):
    """Raised on every rank at the same point: the process group is whole, and all leave together."""

    def __init__(self, message: str, code: int = 2):
        super().__init__(message)
        self.code = code


def leave(code: int) -> int:
    """What this process exits with once all ranks have agreed on `code`.

    torchrun takes any exit but 0 for a crash, prints a page about it and exits with 1 itself. Where launch.sh waits
    for it, the code goes into the file that launch.sh names, and the process exits with 0.
    """
    file = os.environ.get("ESPALIER_EXIT_CODE_FILE")
    if not file:
        return code
    Path(file).write_text(f"{code}\n", "utf-8")
    return 0
