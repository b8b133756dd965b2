"""How long ranks wait for one another: no two cores of a machine with other users are equally fast at every moment."""

import time
from math import ceil

import torch
import torch.distributed as dist

from pretrain.engine.distributed import computes_on_gpu
from pretrain.profile.calibrate.rates import median_seconds

WORK_SECONDS = (0.02, 0.3)
"""Between two meetings: from a branch of a layer to a step."""
SECONDS = 2.0
"""Of each measurement."""
LEAST = 1e-4


def waiting_shares() -> list[tuple[float, float]]:
    """[seconds of work between two meetings, share of them that a rank waits], where all have the same work. None on
    GPUs, whose ranks have one each, and of one rank."""
    alone = dist.get_world_size() == 1
    return [] if computes_on_gpu() or alone else [(seconds, _share(seconds)) for seconds in WORK_SECONDS]


def _share(seconds: float) -> float:
    left, right, met = torch.randn(256, 256), torch.randn(256, 256), torch.zeros(1)
    latency = median_seconds(lambda: dist.all_reduce(met), seconds=0)
    count = torch.tensor(seconds / median_seconds(lambda: left @ right))
    dist.broadcast(count, src=0)
    num_products, num_meetings = max(1, round(count.item())), ceil(SECONDS / seconds)
    worked, waited = 0.0, 0.0
    dist.barrier()
    for _ in range(num_meetings):
        start = time.perf_counter()
        for _ in range(num_products):
            left @ right
        done = time.perf_counter()
        dist.all_reduce(met)
        worked += done - start
        waited += time.perf_counter() - done - latency
    sums = torch.tensor([worked, waited], dtype=torch.float64)
    dist.all_reduce(sums)
    of_all, between = sums.tolist()
    return max(between / of_all, LEAST)
