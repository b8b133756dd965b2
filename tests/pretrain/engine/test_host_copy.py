"""Copies through the small buffer keep every bit. On a CPU the same pieces go through ordinary memory."""

from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from pretrain.engine import host_copy
from pretrain.engine.distributed import device
from pretrain.engine.host_copy import HALF_BYTES, HOST, Staging, fill, moved
from tests.support.workers import pool

SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 80, 81)
"""In bytes, for halves of 16."""


def tensors() -> list[Tensor]:
    """Any bits, also those of NaN, in several types; and views that are not contiguous."""
    found = []
    for size in SIZES:
        bits = torch.randint(256, (size,), dtype=torch.uint8)
        types = (torch.uint8, torch.bfloat16, torch.float32, torch.int64)
        found += [bits.view(dtype) for dtype in types if size % dtype.itemsize == 0]
    grid = torch.randn(7, 9)
    return [*found, grid, grid.T, grid[1::2, ::3], torch.tensor(3.5), grid[2:2], torch.randn(4, requires_grad=True)]


def same_bits(first: Tensor, second: Tensor) -> bool:
    assert (first.dtype, first.shape) == (second.dtype, second.shape)
    bits = (tensor.detach().reshape(-1).view(torch.uint8) for tensor in (first, second))
    return torch.equal(*bits)


@pytest.mark.parametrize("way", ["to_host", "from_host"])
def test_pieces_larger_and_smaller_than_the_buffer_arrive_whole(way):
    staging = Staging(16)
    for tensor in tensors():
        target = torch.empty(tensor.shape, dtype=tensor.dtype)
        getattr(staging, way)(target, tensor)
        assert same_bits(target, tensor)
    assert not any(half.is_pinned() for half in staging.halves)


def test_on_a_cpu_nothing_is_copied_that_was_not():
    tensor = torch.randn(3)
    with patch.object(host_copy, "_of_this_rank", None):
        assert moved(tensor, HOST) is tensor
        copied = moved(tensor, HOST, copy=True)
        assert copied is not tensor and same_bits(copied, tensor)
        fill(copied, torch.zeros(3))
    assert copied.tolist() == [0, 0, 0]


def through_the_gpu() -> list[bool]:
    """There and back, with more than the buffer holds and while the device is busy; from pinned memory, too."""
    alike = []
    large = torch.randint(2**31, (HALF_BYTES * 5 // 4,), dtype=torch.int32)
    for tensor in [*tensors(), large, large.view(5, -1).T, large.pin_memory()]:
        there = moved(tensor, device())
        busy = there.clone()
        for _ in range(3):
            busy = busy + 1 - 1 if busy.dtype == torch.int32 else busy.clone()
        back = torch.empty(tensor.shape, dtype=tensor.dtype)
        fill(back, busy)
        alike += [there.is_cuda, same_bits(back, tensor), same_bits(moved(busy, HOST), tensor)]
    staging = host_copy._of_this_rank()
    return [*alike, *(half.is_pinned() and half.numel() == HALF_BYTES for half in staging.halves)]


@pytest.mark.gpu
def test_a_gpu_gets_and_gives_the_same_bits_through_pinned_memory():
    (found,) = pool(1, on_gpu=True).run(through_the_gpu)
    assert all(found), found
