"""What happens to a run besides training: runs/NAME/journal.jsonl, one object a line. No torch: launchers write it too.

    start, restart      a process began to train: step, nodes, ranks; why the one before had ended, and the steps lost
    stage               a stage begins or goes on: the stages from here on, with their ends and FLOPs a step
    lead                how long before its end a job should be told: seconds; from the longest step and checkpoint
    rollback            back to a checkpoint in the same processes: cause, steps lost
    preempted           saved on a signal
    failure             ended by a fault: cause, exit code
    stopped             ended by Ctrl-C
    requeued            the job went back into the queue
    finished            the last step was taken

Each has its `time` (seconds since 1970, by the writer's clock) and, where it is known, its `step`.
"""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

Entry = dict[str, Any]

STARTS = ("start", "restart")
ENDS = ("preempted", "failure", "stopped", "finished")
TAIL_BYTES = 1 << 17


def journal_of(folder: Path) -> Path:
    return folder / "journal.jsonl"


def write(folder: Path, event: str, **values: Any) -> Entry:
    """Adds an entry and returns it. A disk that is full loses the entry and does not stop the run."""
    entry = {"event": event, "time": round(time.time(), 1), **{key: v for key, v in values.items() if v is not None}}
    with suppress(OSError), journal_of(folder).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")  # a single write
    return entry


def read(folder: Path, offset: int = 0) -> list[Entry]:
    """The entries from a byte on, oldest first. Lines that are none are skipped."""
    try:
        text = journal_of(folder).read_bytes()[offset:]
    except OSError:
        return []
    entries = map(parsed, text.splitlines())
    return [entry for entry in entries if entry and isinstance(entry.get("event"), str)]


def size(folder: Path) -> int:
    """Bytes so far."""
    with suppress(OSError):
        return journal_of(folder).stat().st_size
    return 0


def tail(metrics: Path) -> list[Entry]:
    """The last steps and events of metrics.jsonl, however long it is."""
    try:
        with metrics.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
            file.seek(start)
            texts = file.read().splitlines()[start > 0 :]
    except OSError:
        return []
    return [line for line in map(parsed, texts) if line and isinstance(line.get("step"), int)]


def parsed(text: bytes) -> Entry | None:
    """None for what is not a JSON object: a torn line, or a damaged one."""
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        return value if isinstance(value, dict) else None
    return None
