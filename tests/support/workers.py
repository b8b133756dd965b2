"""Pools of gloo ranks, one for each world size, started once and handed functions.

    results = pool(2).run(function, *arguments)      # one result for each rank, in rank order
    pool(1, on_gpu=True)                             # a rank that computes on the GPU; the others do not see it

`function` must be importable (module level). Torch's default dtype and seed are reset before each call, so tests do
not see each other. A rank that raises fails the test with its traceback; one that dies or hangs fails it too, and the
pool restarts for the next test.

The ranks of pools of two and four are new processes, as those of a run: each has its own seed of hashes, and so its own
order of sets. Those of other pools are forked, which spares their imports.
"""

import atexit
import os
import socket
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing import Pipe, connection, get_context
from typing import Any

from pretrain.launch.start_up import importing
from tests.support.forking import FORKED

TIMEOUT_SECONDS = 240


@cache
def pool(world_size: int, on_gpu: bool = False) -> "Pool":
    created = Pool(world_size, on_gpu)
    atexit.register(created.stop)
    return created


class Pool:
    def __init__(self, world_size: int, on_gpu: bool = False):
        self.world_size, self._on_gpu = world_size, on_gpu
        self._device = {"DS_ACCELERATOR": "cuda"} if on_gpu else {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        self._ranks: list = []

    def run(self, function: Callable, *arguments: Any, timeout_seconds: float = TIMEOUT_SECONDS) -> list:
        if not all(process.is_alive() for process, _ in self._ranks):
            self.stop()
        if not self._ranks:
            self._start()
        try:
            for _, pipe in self._ranks:
                pipe.send((function, arguments))
            results: dict[int, Any] = {}
            failures: dict[int, str] = {}
            pending = {pipe: rank for rank, (_, pipe) in enumerate(self._ranks)}
            while pending:
                # Once a rank has failed, the others may wait for it in a collective: do not wait for them long.
                ready = connection.wait(list(pending), 3 if failures else timeout_seconds)
                if not ready:
                    break
                for pipe in ready:
                    rank = pending.pop(pipe)
                    try:
                        ok, value = pipe.recv()
                    except EOFError:
                        ok, value = False, "the process died"
                    (results if ok else failures)[rank] = value
            if failures or pending:
                hung = f"ranks {sorted(pending.values())} did not answer" if pending else ""
                details = "\n".join(f"rank {rank}: {text}" for rank, text in sorted(failures.items()))
                raise AssertionError(f"{function.__name__} failed\n{details}\n{hung}")
        except BaseException:
            self.stop()
            raise
        return [results[rank] for rank in range(self.world_size)]

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(self.world_size):
            ours, theirs = Pipe()
            self._ranks.append((self._start_rank(theirs, rank, port), ours))
            theirs.close()

    def _start_rank(self, pipe: connection.Connection, rank: int, port: int) -> Any:
        context = get_context("spawn") if self.world_size in (2, 4) or self._on_gpu else FORKED
        arguments = (pipe, rank, self.world_size, port, self._device)
        process = context.Process(target=serve, args=arguments, daemon=True)
        process.start()
        return process

    def stop(self) -> None:
        for process, pipe in self._ranks:
            pipe.close()
            process.kill()
            process.join()
        self._ranks = []


def serve(pipe: connection.Connection, rank: int, world_size: int, port: int, device: dict[str, str]) -> None:
    """A rank of a pool: calls the functions that come through `pipe` until it closes."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", **device,
    )  # fmt: skip
    with importing():  # else every move of an engine would look through the objects of the libraries
        import torch

        import pretrain.training.train  # noqa: F401
        from pretrain.engine.distributed import start_process_group
        from pretrain.training.events import Hook
        from pretrain.training.hooks.picture import LossPicture

    LossPicture.on_end = Hook.on_end  # it takes as long as ten steps; tests/pretrain/use/test_demo.py has one drawn
    torch.set_num_threads(1)
    start_process_group()
    while True:
        try:
            function, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(0)
        try:
            pipe.send((True, function(*arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
