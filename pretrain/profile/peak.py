"""What the device can do at best, measured in the same minutes as everything it is compared with."""

import time

import torch

SHAPES = ((4096, 256, 8192), (4096, 1024, 4096), (8192, 4096, 4096))
"""Matrix products [M, K] x [K, N] from a small BERT's head to a large one's feed-forward network."""


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """The best rate over SHAPES; on a CPU with as many threads as torch uses now, without the largest shape."""
    shapes = SHAPES if device.type == "cuda" else SHAPES[:2]
    return max(_rate(*shape, device, dtype, seconds) for shape in shapes)


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
    return 2 * m * k * n / min(times)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
