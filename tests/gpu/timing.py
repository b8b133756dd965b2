"""Times work on the device, by its own clock."""

import time
from collections.abc import Callable
from typing import Any

import torch

from pretrain.engine.distributed import computes_on_gpu

WARMUP = 2


class OutOfTime(BaseException):
    """Ends a part of the session. No Exception: what becomes of one kernel or cell must not catch it."""


def seconds_of(work: Callable[[], Any], budget: float) -> float:
    """Of one call, over as many in a row as the budget of seconds allows. The host waits only at the end."""
    for _ in range(WARMUP):
        work()
    finish()
    begin = time.perf_counter()
    work()
    finish()
    calls = max(1, min(200, int(budget / max(time.perf_counter() - begin, 1e-6))))
    if not computes_on_gpu():
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - begin) / calls
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    for _ in range(calls):
        work()
    ended.record()
    finish()
    return begun.elapsed_time(ended) / 1e3 / calls


def finish() -> None:
    if computes_on_gpu():
        torch.cuda.synchronize()
