"""This process as one of many ranks, of which there is no other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import deepspeed
import torch.distributed as dist
from deepspeed.utils import groups
from torch.testing._internal.distributed.fake_pg import FakeStore

from model.parallel import layout
from pretrain.engine.distributed import skip_shared_memory_kernel
from pretrain.simulation.messages import replaced

ALL_TO_ALL = ("all_to_all_single", "alltoall_base")
"""The methods of a process group that exchange parts of unequal sizes, from torch 2.13 on and before. The fake group's
copies what a rank sends to what it receives, which may be less."""


class _Done:
    """In place of the handle of a collective."""

    def wait(self) -> None:
        pass


@contextmanager
def only_rank(rank: int, num_ranks: int) -> Iterator[None]:
    """Inside, a collective returns at once: what is sent goes nowhere, and what should come keeps what it held."""
    skip_shared_memory_kernel()
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=num_ranks)
    deepspeed.init_distributed(dist_backend="fake", auto_mpi_discovery=False, verbose=False)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    try:
        with replaced(dict.fromkeys(ALL_TO_ALL, lambda *arguments, **options: _Done())):
            yield
    finally:
        del os.environ["LOCAL_RANK"]
        layout.forget()
        groups._WORLD_GROUP = None  # DeepSpeed 0.19.8 keeps it for the life of a process
        dist.destroy_process_group()
