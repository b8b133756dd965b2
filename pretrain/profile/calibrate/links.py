"""How long ranks take to sum, gather, scatter and exchange, by NCCL's or gloo's own collectives."""

from collections.abc import Callable
from math import ceil, log2
from statistics import median

import torch
import torch.distributed as dist

from pretrain.cost.time.machine import KINDS, Kind
from pretrain.engine.distributed import device
from pretrain.profile.calibrate.rates import median_seconds

MESSAGE_BYTES = (2**21, 2**24, 2**27)
"""From the hidden states of a micro-batch to a bucket of gradients."""


def measured_link() -> dict[str, object]:
    """Latency of a round, and bus bandwidth of each kind of message, among all ranks."""
    size = dist.get_world_size()
    if size == 1:
        return {"latency_us": 0.0, "gb_per_second": 100.0}  # nothing is ever sent
    latency = _agreed(_of_calls(KINDS[0], size))
    rates = {
        kind: [(1e-6 * num_bytes, _bandwidth(kind, num_bytes, size, latency)) for num_bytes in MESSAGE_BYTES]
        for kind in KINDS
    }
    (_, largest) = rates[KINDS[0]][-1]
    return {"latency_us": 1e6 * latency / ceil(log2(size)), "gb_per_second": largest, "of": rates}


def _bandwidth(kind: Kind, num_bytes: int, size: int, latency: float) -> float:
    """GB/s, apart from the latency."""
    rounds = (2 if kind == KINDS[0] else 1) * (size - 1) / size
    seconds = _agreed(_of_calls(kind, num_bytes // 4))
    return 1e-9 * rounds * num_bytes / max(seconds - latency, seconds / 2)


def _of_calls(kind: Kind, numel: int) -> float:
    """Seconds, the median of some; as many on every rank."""
    size = dist.get_world_size()
    numel = max(size, numel // size * size)  # it is divided
    whole = torch.ones(numel, device=device())
    part = torch.ones(numel // size, device=device())
    inbox = torch.ones_like(whole)
    calls: dict[Kind, Callable[[], object]] = {
        KINDS[0]: lambda: dist.all_reduce(whole),
        KINDS[1]: lambda: dist.all_gather_into_tensor(whole, part),
        KINDS[2]: lambda: dist.reduce_scatter_tensor(part, whole),
        KINDS[3]: lambda: dist.all_to_all_single(inbox, whole),
    }
    return median(median_seconds(calls[kind], seconds=0) for _ in range(5))


def _agreed(seconds: float) -> float:
    """The slowest rank's."""
    slowest = torch.tensor(seconds, dtype=torch.float64, device=device())
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return slowest.item()
