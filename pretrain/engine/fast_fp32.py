"""Faster fp32 matrix products: on a CPU through oneDNN, equally precise and twice as fast where MKL is slow (AMD); on a
GPU in TF32, if the user allows it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from pretrain.engine.distributed import computes_on_gpu, device

LARGEST_ERROR = 1e-5
"""Relative to the largest entry. True fp32 has 1e-6, a product of bf16 numbers more than 1e-3."""


@contextmanager
def fast_fp32(tf32: bool = False) -> Iterator[None]:
    """Inside, torch may use oneDNN's fp32, if on this machine it is as precise as fp32; on a GPU TF32, if that is asked
    for.

    The setting that chooses it also allows bf16 arithmetic, which some processors (Intel's with AMX) then use. There
    nothing changes. A precision that the caller has already lowered stays unchanged.
    """
    before = torch.get_float32_matmul_precision()
    if device().type == "cpu" and before == "highest" and error_with("medium") < LARGEST_ERROR:
        torch.set_float32_matmul_precision("medium")
    if tf32 and computes_on_gpu() and before == "highest":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def error_with(precision: str) -> float:
    """Largest error of a product [512, 512] under a setting, relative to its largest entry in float64."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 512, 512, generator=generator)
    exact = left.double() @ right.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        return ((left @ right - exact).abs().max() / exact.abs().max()).item()
    finally:
        torch.set_float32_matmul_precision(before)
