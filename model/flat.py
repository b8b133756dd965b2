"""Tensors in one piece of memory: one message to another process, one copy to a GPU."""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ALIGNMENT = 16
"""Bytes: each tensor begins at a multiple, as kernels and views of other types want it."""


class Place(NamedTuple):
    """Where a tensor is in the buffer."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Flat:
    buffer: Tensor  # [bytes] uint8
    places: dict[str, Place]

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "Flat":
        """Tensors of the CPU, by name."""
        places, parts, start = {}, [], 0
        for name, tensor in tensors.items():
            places[name] = Place(start, tensor.dtype, tuple(tensor.shape))
            part = tensor.contiguous().flatten().view(torch.uint8)
            padding = part.new_zeros(-len(part) % _ALIGNMENT)
            parts += [part, padding]
            start += len(part) + len(padding)
        return cls(torch.cat(parts), places)

    def tensors(self) -> dict[str, Tensor]:
        """Views of the buffer."""
        views = {}
        for name, (start, dtype, shape) in self.places.items():
            part = self.buffer[start : start + math.prod(shape) * dtype.itemsize]
            views[name] = part.view(dtype).view(shape)
        return views

    def to_gpu(self, device: torch.device) -> "Flat":
        """In one copy from pinned memory, on a stream of its own: neither the host nor the copy waits for what the GPU
        still computes."""
        stream = _copies(device)
        with torch.cuda.stream(stream):
            buffer = self.buffer.pin_memory().to(device, non_blocking=True)
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        buffer.record_stream(current)
        return replace(self, buffer=buffer)

    def __getstate__(self) -> tuple[Any, ...]:
        """With numpy's array, which pickle copies once; a tensor would be written as a file is."""
        return self.buffer.numpy(), self.places

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        buffer, places = state
        object.__setattr__(self, "buffer", torch.from_numpy(buffer))
        object.__setattr__(self, "places", places)


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
