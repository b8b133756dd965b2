"""What the device can do at best, measured in the same minutes as everything it is compared with."""

import time

import torch

SHAPES = ((4096, 256, 8192), (4096, 1024, 4096), (8192, 4096, 4096))
"""Matrix products [M, K] x [K, N] from a small BERT's head to a large one's feed-forward network."""

PROBE = (256, 256, 1024)
"""Tried first: a CPU without bf16 would take minutes for the others."""

PATIENCE = 30
"""A product that would take this many times `seconds` is not tried."""


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """The best rate over SHAPES; on a CPU with as many threads as torch uses now, without the largest shape."""
    at_least = _rate(*PROBE, device, dtype, seconds)
    shapes = SHAPES if device.type == "cuda" else SHAPES[:2]
    quick = [shape for shape in shapes if _flops(*shape) < PATIENCE * seconds * at_least]
    return max((_rate(*shape, device, dtype, seconds) for shape in quick), default=at_least)


def _rate(m: int, k: int, n: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    left = torch.randn(m, k, device=device, dtype=dtype)
    right = torch.randn(k, n, device=device, dtype=dtype)
    in_a_row = 10 if device.type == "cuda" else 1  # a wait after each product would cost 5%
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(in_a_row):
            left @ right
        synchronize(device)
        times.append((time.perf_counter() - start) / in_a_row)
    return _flops(m, k, n) / min(times)


def _flops(m: int, k: int, n: int) -> int:
    return 2 * m * k * n


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
