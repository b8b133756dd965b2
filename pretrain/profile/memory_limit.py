"""Whether memory holds a configuration: asked before on a CPU, where the system would kill the ranks, found out on a
GPU."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from model.errors import UserError
from pretrain.cost.memory import peak_bytes, stage_bytes
from pretrain.launch.gpus import count_gpus
from pretrain.launch.outcome import stops_first
from pretrain.profile.measurement import OUT_OF_MEMORY
from pretrain.recipe import ResolvedStage

GIB = 2**30

LIBRARY_BYTES = 600 * 2**20
"""What Python, torch and DeepSpeed take in a process on a CPU before it trains (measured)."""

CGROUP = Path("/sys/fs/cgroup")


class OutOfMemory(UserError):
    """A configuration that memory does not hold."""


def check_memory(stage: ResolvedStage, ranks_here: int, limit_gib: float | None) -> None:
    """Raises OutOfMemory where the ranks of this node would need more than `limit_gib`, as `plan` predicts it.

    None: what is free on a CPU machine; on GPUs nothing is known to be too much.
    """
    on_cpu = count_gpus() == 0
    if limit_gib is None and not on_cpu:
        return
    of_a_rank = peak_bytes(*stage_bytes(stage, on_cpu), on_cpu) + LIBRARY_BYTES * on_cpu
    needed, limit = ranks_here * of_a_rank / GIB, free_bytes() / GIB if limit_gib is None else limit_gib
    if needed > limit:
        held = "that are free; --memory-gib raises the limit" if limit_gib is None else "of --memory-gib"
        raise OutOfMemory(f"it would need about {needed:.1f} GiB, more than the {limit:.1f} GiB {held}")


def free_bytes() -> int:
    """Of this machine, or of the container or job that this process is in."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no cgroup of version 2, or one without a limit
        limit, used = (int((CGROUP / f"memory.{name}").read_text("ascii")) for name in ("max", "current"))
        free = min(free, max(limit - used, 0))
    return free


@contextmanager
def out_of_memory_is_told() -> Iterator[None]:
    """In a rank: ends it with OUT_OF_MEMORY, at once, where memory is full. The launcher says so in one line."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not _is_about_memory(error):
            raise
        print(f"espalier: {error}", file=sys.stderr, flush=True)
        stops_first(OUT_OF_MEMORY)
        os._exit(OUT_OF_MEMORY)  # the other ranks are in collectives that this one cannot join


def _is_about_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
