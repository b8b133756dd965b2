"""What a run says of faults, to a launcher, which does not read recipes: the process that has checked it tells."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "ESPALIER_TOLERANCE_FILE"
"""Environment variable: the file in which the check leaves a Tolerance for the launcher."""

REGROUP_FILE = "regroup"
"""In a run's folder: asks the run to leave at its next checkpoint and to go on with the nodes that are there then."""

DETECT_SECONDS = "ESPALIER_DETECT_SECONDS"
"""Environment variable of a node's task: `detect_seconds`."""


@dataclass(frozen=True)
class Tolerance:
    """The recipe's section `faults`, as far as it concerns the launcher."""

    detect_seconds: float = 30.0
    min_nodes: int | None = None
    """None: a job that loses a node ends."""
    restarts: int = 3
    folder: str | None = None
    """Of the run."""
    notify: str | None = None
    """The command that tells of a run's end."""
    max_nodes: int | None = None
    """To train on; None: all."""
    spare: int = 0
    """Nodes kept back until one fails."""
    recipe: str = ""
    """What the check has read, as JSON."""


def told_by(check: Callable[[], int]) -> tuple[int, Tolerance]:
    """The exit code of a check that runs in a process of its own, and what it has told."""
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        file = Path(folder, "tolerance")
        os.environ[FILE] = str(file)
        try:
            code = check()
        finally:
            del os.environ[FILE]
        return code, Tolerance(**json.loads(file.read_text("utf-8"))) if file.exists() else Tolerance()


def is_asked() -> bool:
    """Whether a launcher waits for what this check tells."""
    return FILE in os.environ


def tell_launcher(tolerance: Tolerance) -> None:
    """In the check. Does nothing where nobody asks."""
    if file := os.environ.get(FILE):
        Path(file).write_text(json.dumps(asdict(tolerance)), "utf-8")
