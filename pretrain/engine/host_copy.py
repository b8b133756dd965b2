"""Copies of a state's tensors between a GPU and the host, through a small pinned buffer.

A GPU reads and writes pinned memory at the full rate of its link. Pageable memory the driver copies in pieces of its
own, one after the other, and waits for each. To pin a whole state would take seconds, and memory that nothing else can
have. So there is one buffer of two halves: the GPU copies from or to one, while the host copies to or from the other.
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from pretrain.engine.distributed import computes_on_gpu

HOST = torch.device("cpu")

HALF_BYTES = 2**24
"""Of the buffer, which each rank keeps: 32 MiB of pinned memory in all."""


def moved(tensor: Tensor, place: torch.device, copy: bool = False) -> Tensor:
    """`tensor.to(place, copy=copy)`. What goes to the host is there when this returns."""
    if not _is_between(tensor, place):
        return tensor.to(place, copy=copy)
    target = torch.empty(tensor.shape, dtype=tensor.dtype, device=place)
    fill(target, tensor)
    return target


def fill(target: Tensor, source: Tensor) -> None:
    """`target.copy_(source)`, of the same shape and type."""
    if _is_between(source, target.device) and _is_between(target, source.device):
        staging = _of_this_rank()
        (staging.to_host if target.is_cpu else staging.from_host)(target, source)
    else:
        target.copy_(source)


def _is_between(tensor: Tensor, place: torch.device) -> bool:
    """Whether a copy goes from the host to a device or back, and not from pinned memory."""
    return tensor.device.type != place.type and not (tensor.is_cpu and tensor.is_pinned())


class Staging:
    """The buffer. Ordinary memory where there is no GPU."""

    def __init__(self, half_bytes: int = HALF_BYTES) -> None:
        on_gpu = computes_on_gpu()
        self.halves = [torch.empty(half_bytes, dtype=torch.uint8, pin_memory=on_gpu) for _ in range(2)]
        self.stream = torch.cuda.Stream() if on_gpu else None
        self.copied = [torch.cuda.Event(), torch.cuda.Event()] if on_gpu else []
        """Behind what the stream last copied from or to each half."""

    def to_host(self, target: Tensor, source: Tensor) -> None:
        """The host takes a piece out of one half while the next comes into the other. It has all when this returns."""
        there, here = self._flat(target, source)
        before = None
        for half, piece in self._pieces(here.numel()):
            self._enqueue(half, self._part(half, piece), here[piece])
            if before is not None:
                self._take(there, *before)
            before = half, piece
        if before is not None:
            self._take(there, *before)

    def from_host(self, target: Tensor, source: Tensor) -> None:
        """What the device computes from now on finds it in `target`."""
        there, here = self._flat(target, source)
        for half, piece in self._pieces(here.numel()):
            self._await(half)  # until the device has taken what was there
            self._part(half, piece).copy_(here[piece])
            self._enqueue(half, there[piece], self._part(half, piece))
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)

    def _flat(self, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """[bytes] of both. `target` is contiguous, and of the source's shape and type."""
        assert target.is_contiguous() and target.shape == source.shape and target.dtype == source.dtype
        flat = _bytes(target), _bytes(source.contiguous())
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())  # which may still write the one, or read the other
        return flat

    def _take(self, target: Tensor, half: int, piece: slice) -> None:
        self._await(half)
        target[piece].copy_(self._part(half, piece))

    def _pieces(self, num_bytes: int) -> Iterator[tuple[int, slice]]:
        """In turn through the two halves."""
        size = self.halves[0].numel()
        for number, start in enumerate(range(0, num_bytes, size)):
            yield number % 2, slice(start, min(start + size, num_bytes))

    def _part(self, half: int, piece: slice) -> Tensor:
        return self.halves[half][: piece.stop - piece.start]

    def _enqueue(self, half: int, target: Tensor, source: Tensor) -> None:
        """A copy from or to a half, by the device."""
        if self.stream is None:
            target.copy_(source)
            return
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
            self.copied[half].record()

    def _await(self, half: int) -> None:
        if self.stream is not None:
            self.copied[half].synchronize()  # at once, where nothing was recorded


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


@cache
def _of_this_rank() -> Staging:
    return Staging()
