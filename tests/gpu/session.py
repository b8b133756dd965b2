"""The measurements of `session.sh`, part by part, in one process while it lives.

python -m tests.gpu.session FOLDER [--rehearse]

Each part writes FOLDER/PART.json after every row, so a stop loses nothing. A part that takes longer than its time is
left, and one that hangs takes the process with it; started again, the session continues with the next part.
Exit code 0: all parts have been tried.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import BertConfig
from pretrain.engine.distributed import process_group
from tests.gpu import kernels, matrix, moves, steps
from tests.gpu.timing import OutOfTime

GRACE_SECONDS = 15
"""After its time a part hangs, and not Python but what it has called."""

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    name: str
    seconds: int
    rows: Callable[[Path], Rows]


def parts(tries_out: bool) -> list[Part]:
    """In the order of their worth. `tries_out`: a tiny shape, for a CPU."""
    large, base = BertConfig.preset("large"), BertConfig.preset("base")
    large, base = (one.replace(hidden_dropout=0.0, attention_dropout=0.0) for one in (large, base))
    short, long, of_base, square, cell = (128, 128), (32, 512), (256, 128), 8192, 20.0
    if tries_out:
        large = base = base.replace(layers=2, hidden=32, heads=2, ffn=64, vocab_size=199, max_positions=32)
        short, long, of_base, square, cell = (2, 16), (2, 32), (2, 16), 64, 0.02
    few = steps.CELLS[: 1 if tries_out else 2]
    return [
        Part("matrix", 60, lambda folder: matrix.rows(*(["ZeRO 1, bf16"] if tries_out else matrix.CASES))),
        Part("kernels", 80, lambda folder: kernels.rows(large, *short, square, cell / 20)),
        Part("large-512", 70, lambda folder: steps.rows(large, *long, cell, few)),
        Part("large-128", 110, lambda folder: steps.rows(large, *short, cell)),
        Part("base-128", 50, lambda folder: steps.rows(base, *of_base, cell, few)),
        Part("moves", 40, lambda folder: moves.rows(large, *long)),
        Part("trace", 30, lambda folder: steps.trace(large, *short, folder)),
    ]


def run(folder: Path, tries_out: bool) -> None:
    """All parts that have not begun yet."""
    with process_group():
        for part in parts(tries_out):
            if not (folder / f"{part.name}.json").exists():
                run_part(part, folder)


def run_part(part: Part, folder: Path) -> None:
    begin, found = time.monotonic(), []
    report: dict[str, Any] = {"part": part.name, "rows": found, "ended": "killed"}

    def write() -> None:
        report["seconds"] = time.monotonic() - begin
        (folder / f"{part.name}.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")

    write()
    hangs = threading.Timer(part.seconds + GRACE_SECONDS, os._exit, (1,))
    hangs.daemon = True
    hangs.start()
    before = signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(part.seconds)
    try:
        for row in part.rows(folder):
            found.append(row)
            write()
        report["ended"] = "complete"
    except OutOfTime:
        report["ended"] = "out of time"
    except Exception as error:
        report["ended"] = f"{type(error).__name__}: {error}"[:500]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        hangs.cancel()
        write()
    print(f"{part.name}: {report['ended']}, {len(found)} rows, {report['seconds']:.0f} s", flush=True)


def _out_of_time(*_: object) -> None:
    raise OutOfTime


if __name__ == "__main__":
    run(Path(sys.argv[1]), "--rehearse" in sys.argv[2:])
