"""Real runs in real processes: `./launch.sh train`, watched, signalled and killed."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.support.home import HOME


class Launched:
    """One `./launch.sh train`, its output in a file."""

    def __init__(self, recipe: Path, runs: Path, *arguments: str, nproc: int = 2, **environment: str):
        self.output = runs.parent / f"output-{time.monotonic_ns()}.txt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        command = [HOME / "launch.sh", "train", recipe, "--runs", runs, "--nproc", str(nproc), *arguments]
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdout=file, stderr=file, env=environment, start_new_session=True
            )

    def __enter__(self) -> "Launched":
        return self

    def __exit__(self, *_) -> None:
        for pid in [*self.ranks(), self.process.pid]:
            kill(pid, signal.SIGKILL)
        self.process.wait()

    def text(self) -> str:
        return self.output.read_text("utf-8", "replace")

    def wait(self, timeout: float = 280) -> int:
        """The exit code."""
        return self.process.wait(timeout)

    def wait_for(self, text: str, timeout: float = 280) -> None:
        deadline = time.monotonic() + timeout
        while text not in self.text():
            assert time.monotonic() < deadline, f"no {text!r} in\n{self.text()}"
            assert self.process.poll() is None or text in self.text(), f"ended without {text!r}:\n{self.text()}"
            time.sleep(0.02)

    def torchrun(self) -> list[int]:
        """The process id of torchrun, once it has started."""
        return [child for child in children(self.process.pid) if b"pretrain.launch.agent" in command_line(child)]

    def ranks(self) -> list[int]:
        """The process ids of the ranks that live, in no order."""
        return [rank for torchrun in self.torchrun() for rank in children(torchrun)]


def children(pid: int) -> list[int]:
    """The processes that any thread of `pid` started; none when it is gone."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(word) for word in task.read_text().split()]
    return found


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
