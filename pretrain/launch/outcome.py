"""Exit codes, and how the one that the ranks agreed on gets past torchrun to the launcher."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What an exit code of Espalier means. Any other code is a crash, or 128 + the signal that ended the process."""

    DONE = 0
    MISTAKE = 2
    """A user's mistake, or a fault that a restart does not mend."""
    PEER_LOST = 69
    """Another rank went away, with its process, its node or the network (EX_UNAVAILABLE)."""
    HUNG = 70
    """A rank made no progress and the watchdog ended the run (EX_SOFTWARE of sysexits.h)."""
    PREEMPTED = 75
    """The run saved itself on a signal and wants to be started again (EX_TEMPFAIL)."""
    REGROUP = 76
    """The run saved itself to go on, in the same job, with other nodes."""
    INTERRUPTED = 130
    """Ctrl-C: 128 + SIGINT."""


CODE_FILE = "ESPALIER_EXIT_CODE_FILE"
"""Environment variable: the file in which the ranks leave their exit code for the launcher."""


def leave(code: int) -> int:
    """Returns what this process has to exit with once all ranks have agreed on `code`.

    torchrun takes any exit but 0 for a crash, prints a page about it and exits with 1 itself. So under a launcher the
    code goes into the launcher's file and the rank exits with 0.
    """
    if CODE_FILE not in os.environ:
        return code
    stops_first(code)  # a rank that has failed before, and made the others leave, is why the run ends
    return ExitCode.DONE


def stops_first(code: int) -> bool:
    """Leaves the code of a rank that stops without the others. Returns whether no rank did so before: it says why.

    The rank then exits with the code itself, so that torchrun ends the others.
    """
    file = os.environ.get(CODE_FILE)
    if not file:
        return os.environ.get("RANK", "0") == "0"
    try:
        with Path(file).open("x", encoding="utf-8") as opened:
            opened.write(f"{int(code)}\n")
    except FileExistsError:
        return False
    return True


def is_known() -> bool:
    """Whether a rank has left its exit code, and so has said why it stops."""
    file = os.environ.get(CODE_FILE)
    return file is not None and _code_in(Path(file)) is not None


Run = Callable[[dict[str, str]], int]
"""Runs ranks, with the variables that they need. Returns torchrun's exit code."""


def agreed_code(run: Run) -> int:
    """The code that the ranks agreed on, else torchrun's."""
    with code_file() as file:
        code = run({CODE_FILE: str(file)})
        agreed = _code_in(file)
        return code if agreed is None else agreed


def own_code(run: Run) -> int:
    """torchrun's exit code: another node tells what all ranks agreed on."""
    with code_file() as file:  # which settles the rank of this node that says why it stops
        return run({CODE_FILE: str(file)})


@contextmanager
def code_file() -> Iterator[Path]:
    """Where ranks may leave their exit code, for the length of a `with`."""
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        yield Path(folder, "exit-code")


def _code_in(file: Path) -> int | None:
    """None where no rank has left one. A rank that was killed as it did so leaves an empty file."""
    text = file.read_text("utf-8") if file.exists() else ""
    return int(text) if text else None


def shell_code(returncode: int) -> int:
    """The exit code of a process as a shell has it: -9 of subprocess, killed by SIGKILL, is 137."""
    return returncode if returncode >= 0 else 128 - returncode
