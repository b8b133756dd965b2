"""What each rank prints, in a file of its own: runs/NAME/logs/rank-00003.log.

The console mixes the ranks of all nodes. A file has one rank's lines, warnings and traceback, over all starts.
"""

import contextlib
import io
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from model.errors import UserError
from pretrain.engine.exits import Stop


@contextlib.contextmanager
def logged(folder: Path, rank: int, start: int) -> Iterator[None]:
    """Inside, what this process prints goes into its file, too. `start`: the number of the run's start.

    What a terminal shows of rank 0 does not: it is redrawn all the time. A disk that refuses the file stops nothing.
    """
    try:
        folder.mkdir(exist_ok=True)
        file = (folder / f"rank-{rank:05d}.log").open("a", encoding="utf-8", errors="replace", buffering=1)
    except OSError:
        yield
        return
    before = sys.stdout, sys.stderr
    print(f"--- start {start} on {socket.gethostname()}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}", file=file)
    sys.stdout, sys.stderr = (stream if stream.isatty() else _Twice(stream, file) for stream in before)
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            is_said = isinstance(error, Stop | UserError)
            print(f"ended by {error}" if is_said else traceback.format_exc(), file=file)
        raise
    finally:
        sys.stdout, sys.stderr = before
        with contextlib.suppress(OSError):
            file.close()


class _Twice(io.TextIOBase):
    """Writes to a stream of the console and to a file."""

    def __init__(self, stream: TextIO, file: TextIO):
        self.stream, self.file = stream, file

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self.file.write(text)
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding
