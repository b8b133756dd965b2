"""Starting and ending the process group of this run."""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from model.parallel.layout import data_parallel_group
from pretrain.engine.exits import Stop, lost_peer

COLLECTIVE_TIMEOUT = timedelta(minutes=30)

ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
"""The variables of a process that nobody started as one of several ranks."""

YIELD_SECONDS = 5.0
"""How long a rank that has lost another waits before it leaves."""


def start_process_group() -> None:
    """Joins the ranks that the environment names (as torchrun sets it); alone where it names none. NCCL or gloo."""
    if dist.is_initialized():
        return
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", "29500" if int(os.environ["WORLD_SIZE"]) > 1 else "0")
    if computes_on_gpu():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    skip_shared_memory_kernel()
    # Called every step, by DeepSpeed 0.19.8 and for sequence parallelism; torch 2.13 renames them.
    for name in ("all_gather_into_tensor", "reduce_scatter_tensor"):
        warnings.filterwarnings("ignore", message=f".*{name}.*", category=FutureWarning)
    deepspeed.init_distributed(
        dist_backend="nccl" if computes_on_gpu() else "gloo",
        timeout=COLLECTIVE_TIMEOUT,
        auto_mpi_discovery=False,
        verbose=False,
    )


@contextmanager
def process_group() -> Iterator[None]:
    """Joins for the length of a `with`. Ranks leave together: one that tears down while another talks can abort it.

    A rank that failed leaves alone: waiting for the others would hang. A rank that loses another raises PeerLost, a
    little later than it could, so that the one that failed is seen to fail first. A process that was no rank before is
    none afterwards, however it leaves.
    """
    if "RANK" not in os.environ:
        with _alone():
            yield
        return
    start_process_group()
    try:
        yield
    except Stop:  # agreed by all ranks
        _leave_together()
        raise
    except RuntimeError as error:
        lost = lost_peer(error)
        if lost is None:
            raise
        time.sleep(YIELD_SECONDS)
        raise lost from error
    _leave_together()


@contextmanager
def _alone() -> Iterator[None]:
    given = {name: os.environ.get(name) for name in (*ALONE, "MASTER_PORT")}
    start_process_group()
    try:
        yield
    finally:
        dist.destroy_process_group()
        for name, value in given.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _leave_together() -> None:
    dist.barrier()
    dist.destroy_process_group()


def device() -> torch.device:
    """Where this rank computes, and where a tensor has to be for a collective. DeepSpeed decides (DS_ACCELERATOR, else
    what there is)."""
    return torch.device(get_accelerator().current_device_name())


def computes_on_gpu() -> bool:
    return get_accelerator().device_name() == "cuda"


def device_clock() -> float:
    """Seconds that this rank's device has worked: of the processor on a CPU, of the clock elsewhere."""
    return time.perf_counter() if computes_on_gpu() else time.process_time()


def data_parallel_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sums over the data-parallel ranks, in place; tensor-parallel ranks hold equal values and each get the sum."""
    group = data_parallel_group()
    if dist.get_world_size(group) > 1:
        dist.all_reduce(tensor, group=group)
    return tensor


_host_groups: dict[dist.ProcessGroup | None, dist.ProcessGroup] = {}
"""Of gloo, with the ranks of NCCL's: a run has few layouts, and a group costs time to make and a thread to keep."""


def host_group(group: dist.ProcessGroup | None = None) -> dist.ProcessGroup | None:
    """The ranks of `group` (None: all), in a group whose collectives run on the host and wait for no device.
    Collective. Each rank makes its own alone, as in model/parallel/layout.py."""
    if not computes_on_gpu():
        return group
    if group is not None and dist.get_world_size(group) == dist.get_world_size():
        group = None  # one group of all ranks is enough
    if group not in _host_groups:
        ranks = None if group is None else dist.get_process_group_ranks(group)
        _host_groups[group] = dist.new_group(ranks, backend="gloo", use_local_synchronization=group is not None)
    return _host_groups[group]


def skip_shared_memory_kernel() -> None:
    """DeepSpeed 0.19.8 compiles a shared-memory all-reduce when it starts on CPU and dies without a compiler.

    Only its inference uses that kernel. Marked as incompatible with this machine, it is not built. (DeepSpeed would
    find out about all its kernels instead, by running the compiler.)
    """
    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None:
        deepspeed.ops.__compatible_ops__ = {builder.NAME: False}
