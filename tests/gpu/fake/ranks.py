"""Ranks in the Python that `--fake-gpu` names: with a fake GPU each, or on the CPU."""

import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support.home import HOME
from tests.support.workers import Pool, serve


class Ranks(Pool):
    """`stand_ins`: the libraries of build.py; `mail`: a folder for the messages of fake GPUs."""

    def __init__(self, world_size: int, on_gpu: bool, python: str, stand_ins: list[Path], mail: Path):
        super().__init__(world_size, on_gpu)
        self._python = python
        self._environment = {
            "LD_PRELOAD": ":".join(map(str, stand_ins)),
            "FAKE_GPUS": str(world_size),
            "FAKE_GPU_MAIL": str(mail),
            "PYTHONPATH": str(HOME),
        }

    def _start_rank(self, pipe: Connection, rank: int, port: int) -> "_Process":
        arguments = map(str, (pipe.fileno(), rank, self.world_size, port))
        return _Process(
            [self._python, "-m", __name__, self._device["DS_ACCELERATOR"], *arguments],
            env={**os.environ, **self._environment},
            cwd=HOME,
            pass_fds=[pipe.fileno()],
        )


class _Process(subprocess.Popen):
    """With the names of multiprocessing, which cannot start another environment's Python."""

    def is_alive(self) -> bool:
        return self.poll() is None

    join = subprocess.Popen.wait


if __name__ == "__main__":
    file, rank, world_size, port = map(int, sys.argv[2:])
    serve(Connection(file), rank, world_size, port, {"DS_ACCELERATOR": sys.argv[1]})
