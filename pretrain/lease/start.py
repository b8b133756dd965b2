"""One start of a run, as its holder sees it."""

import os
import re
import shutil
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.launch.outcome import ExitCode, stops_first
from pretrain.launch.slurm import say
from pretrain.lease.record import RENEWAL_SECONDS, Lease, file_of, lease_of_this_process, newest_lease, request_to

PARTIAL = ".partial"
"""How the name of an unfinished file or folder ends."""


def whole_name(path: Path) -> str:
    """The name that a file or folder will have when it is finished."""
    return re.sub(rf"(\.start-\d+)?\{PARTIAL}$", "", path.name)


class Start:
    """The right to write to a run's folder, until a newer start has begun.

    Number 0 is that of a process that claims nothing, and of runs from before starts were numbered.
    """

    def __init__(self, folder: Path = Path(), number: int = 0):
        self.folder, self.number = folder, number
        self._lease: Lease | None = None
        self._changes, self._stopping = threading.Lock(), threading.Lock()
        self._ended = threading.Event()

    @classmethod
    def claim(cls, folder: Path, number: int) -> "Start":
        """Takes a number, and renews its lease from now on. Raises FileExistsError when the number is taken."""
        folder.mkdir(parents=True, exist_ok=True)
        start = cls(folder, number)
        start._lease = lease_of_this_process(number)
        file = file_of(folder, number)
        with file.open("xb", buffering=0) as opened:
            try:
                opened.write(start._lease.text().encode())
            except OSError:
                file.unlink()
                raise
        threading.Thread(target=start._renew, name="lease", daemon=True).start()
        return start

    def begin(self, step: int) -> None:
        """Records the step from which this start trains on: what older starts finish after it does not count."""
        assert self._lease
        began_at = self._lease.began_at
        self._change(began_at=step if began_at is None else min(began_at, step))  # less after a rollback

    def end(self) -> None:
        """Gives the lease back. A start whose process simply ends leaves others to find that out."""
        self._ended.set()
        if self._lease:
            with suppress(OSError):
                self._change(ended=True)

    def take_over(self, folders: Iterable[Path]) -> None:
        """Takes from older starts what they have not finished. One that was frozen as it was about to give such a file
        its name will not find it."""
        for path in [path for folder in folders for path in folder.glob(f"*.start-*{PARTIAL}")]:
            number = re.search(r"\.start-(\d+)\.", path.name)
            if number and int(number[1]) < self.number:
                if path.is_file():
                    path.unlink()
                    continue
                orphan = path.with_name(whole_name(path) + PARTIAL)
                shutil.rmtree(orphan, ignore_errors=True)
                path.rename(orphan)

    def partial(self, path: Path) -> Path:
        """The name that `path` has while this start writes it."""
        return path.with_name(f"{path.name}.start-{self.number}{PARTIAL}" if self.number else path.name + PARTIAL)

    def finish(self, path: Path) -> None:
        """Gives what was written under the partial name its own name, unless a newer start has begun."""
        self.check()
        try:
            self.partial(path).replace(path)
        except FileNotFoundError:  # taken over since the check
            self.check()
            raise

    def check(self) -> None:
        """Ends this process with one line if a newer start has begun. Nothing that it could still write would count."""
        if not self.number or not file_of(self.folder, self.number + 1).exists():
            return
        with self._stopping:  # one thread says so
            newest = newest_lease(self.folder)
            if newest and stops_first(ExitCode.MISTAKE):
                say(f"the run in {self.folder.parent} was taken over ({newest.holder}); start {self.number} stops")
            os._exit(ExitCode.MISTAKE)

    def _renew(self) -> None:
        was_asked = False
        while not self._ended.wait(RENEWAL_SECONDS):
            assert self._lease
            try:
                self._change(renewals=self._lease.renewals + 1)
            except OSError:
                with suppress(OSError):  # a disk that is full, or away; what the run itself writes says so
                    os.utime(file_of(self.folder, self.number))
            self.check()
            if request_to(self.folder, self.number).exists() and not was_asked:
                was_asked = True
                say(f"SLURM has started this job again elsewhere, which waits for the run: start {self.number} leaves")
                os.kill(os.getpid(), signal.SIGTERM)  # as SLURM would if it could reach this node

    def _change(self, **values: Any) -> None:
        assert self._lease
        with self._changes, file_of(self.folder, self.number).open("r+b", buffering=0) as file:
            if not self._lease.ended:
                self._lease = replace(self._lease, **values)
                file.write(self._lease.text().encode())
