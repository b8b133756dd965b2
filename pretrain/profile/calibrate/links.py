"""How long ranks take to sum, gather, scatter and exchange, by NCCL's or gloo's own collectives."""

from collections.abc import Callable
from math import ceil, log2

import torch
import torch.distributed as dist

from pretrain.cost.time.machine import KINDS, Kind
from pretrain.engine.distributed import device
from pretrain.profile.calibrate.rates import median_seconds

NUM_ELEMENTS = 4 * 2**20
"""Of a large message: 16 MiB."""


def measured_link() -> dict[str, object]:
    """Latency of a round, and bus bandwidth of each kind of message, among all ranks."""
    size = dist.get_world_size()
    if size == 1:
        return {"latency_us": 0.0, "gb_per_second": 100.0}  # nothing is ever sent
    rates = {kind: _bandwidth(kind, size) for kind in KINDS}
    latency = _agreed(1e6 * _of_calls(KINDS[0], size)) / ceil(log2(size))
    return {"latency_us": latency, "gb_per_second": rates[KINDS[0]], "of": rates}


def _bandwidth(kind: Kind, size: int) -> float:
    rounds = (2 if kind == KINDS[0] else 1) * (size - 1) / size
    return 1e-9 * rounds * 4 * NUM_ELEMENTS / _agreed(_of_calls(kind, NUM_ELEMENTS))


def _of_calls(kind: Kind, numel: int) -> float:
    """Seconds of the fastest of some; as many on every rank."""
    size = dist.get_world_size()
    whole = torch.ones(numel, device=device())
    part = torch.ones(numel // size, device=device())
    inbox = torch.ones_like(whole)
    calls: dict[Kind, Callable[[], object]] = {
        KINDS[0]: lambda: dist.all_reduce(whole),
        KINDS[1]: lambda: dist.all_gather_into_tensor(whole, part),
        KINDS[2]: lambda: dist.reduce_scatter_tensor(part, whole),
        KINDS[3]: lambda: dist.all_to_all_single(inbox, whole),
    }
    return min(median_seconds(calls[kind], seconds=0) for _ in range(5))


def _agreed(seconds: float) -> float:
    """The slowest rank's."""
    slowest = torch.tensor(seconds, dtype=torch.float64, device=device())
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return slowest.item()
