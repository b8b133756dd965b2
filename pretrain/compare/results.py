"""results.jsonl of `compare --scale small`: what was decided first, then each start and each end of a run.

It is only ever appended to, so that whatever ends a start leaves what came before. `seconds` add up over all starts. A
start that was killed lasted until its run's last sign of life; the next one writes its end. One start writes at a time.
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from model.errors import UserError

Line = dict[str, Any]


class Results:
    def __init__(self, file: Path, runs: Path, writes: bool) -> None:
        """`runs`: the folder of the runs' folders. `writes`: for this process alone, as long as it lives.

        Raises UserError if the file is something else, and where another start writes it."""
        self.file, self.runs = file, runs
        self._claimed = _claim(file) if writes else None
        self.lines = _read(file)
        self.num_earlier = len(self.lines)
        """Lines of the starts before this one."""
        is_empty = not file.is_file() or not file.stat().st_size
        if not is_empty and "unit_flops" not in (self.lines or [{}])[0]:
            raise UserError(f"{file} is not of compare --scale small; name another --output, or move it away")

    @property
    def spent_seconds(self) -> float:
        return sum(line.get("seconds", 0.0) for line in [*self.lines, *self._ends_of_killed()])

    @property
    def decided(self) -> Line:
        """The settings that all runs share. Each start decides them again until a run has begun."""
        return [line for line in self.lines if "unit_flops" in line][-1]

    @property
    def begun(self) -> set[str]:
        """The names of the runs that are of these results: a folder may hold others."""
        return {line["run"] for line in self.lines if "run" in line}

    def failed(self, in_this_start: bool = False) -> list[Line]:
        """The ends of the runs that failed when they were last trained; `in_this_start`: by this start alone."""
        lines = self.lines[self.num_earlier if in_this_start else 0 :]
        last = {line["run"]: line for line in lines if "run" in line and "started" not in line}
        return [line for line in last.values() if "failed" in line]

    def resume(self) -> None:
        """A new start: writes the end of the one before where that was killed."""
        for line in self._ends_of_killed():
            self.append(line)

    def append(self, line: Line) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        held = self.file.read_bytes() if self.file.exists() else b""
        is_torn = bool(held) and not held.endswith(b"\n")  # the start before was killed as it wrote
        with self.file.open("a", encoding="utf-8") as file:
            file.write("\n" * is_torn + json.dumps(line) + "\n")
        self.lines.append(line)

    @contextmanager
    def timed(self, run: str) -> Iterator[Line]:
        """A run is trained inside. Writes its start, and its end with what the line is given until then."""
        began = time.monotonic()
        self.append({"run": run, "started": round(time.time(), 1)})
        line: Line = {"run": run}
        try:
            yield line
        finally:
            self.append(line | {"seconds": round(time.monotonic() - began, 1)})

    def _ends_of_killed(self) -> list[Line]:
        if not self.lines or "started" not in self.lines[-1]:
            return []
        run, started = self.lines[-1]["run"], self.lines[-1]["started"]
        metrics = self.runs / run / "metrics.jsonl"
        seconds = metrics.stat().st_mtime - started if metrics.is_file() else 0.0
        return [{"run": run, "seconds": round(max(0.0, seconds), 1)}]


def _claim(file: Path) -> TextIO:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        opened = file.open("a", encoding="utf-8")
    except OSError as fault:
        raise UserError(f"{file} cannot be written: {fault.strerror}; name another --output") from None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{file} is written by another start of this comparison; wait until it has ended, or name another --output"
        ) from None
    except OSError:  # a disk without locks
        pass
    return opened


def _read(file: Path) -> list[Line]:
    """Its lines; torn ones are skipped."""
    found = []
    try:
        texts = file.read_bytes().splitlines() if file.exists() else []
    except OSError as fault:
        raise UserError(f"{file} cannot be read: {fault.strerror}; name another --output") from None
    for text in texts:
        with suppress(ValueError):
            line = json.loads(text)
            found += [line] if isinstance(line, dict) else []
    return found
