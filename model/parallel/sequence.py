"""Sequence parallelism: between the tensor-parallel regions each rank keeps only its part of the tokens.

Korthikanti et al. 2022 (arXiv 2205.05198). Norms, dropout and residual sums work on single tokens, so tensor-parallel
ranks need not all hold all of them: the all-reduce at the end of a region becomes a reduce-scatter over tokens, and the
next region begins with an all-gather. The same bytes travel; what is kept for the backward pass is divided.

Of the B * S tokens of a micro-batch, counted through, rank r keeps the r-th part in the shape [B, S / tp, H]: one piece
of memory, so nothing is copied before it is sent. megatron-core's mappings do the same on CUDA alone.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


def part_of_tokens(whole: Tensor, rank: int, size: int) -> Tensor:
    """Any tensor of tokens, [B, S, ...] -> [B, S / size, ...]."""
    rows, length = whole.shape[:2]
    return whole.reshape(size, rows, length // size, *whole.shape[2:])[rank]


def gather(part: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Into a region: [B, S / tp, H] -> [B, S, H]. Backward: sum over ranks, of which each keeps its part."""
    return _Gather.apply(part, group)


def reduce_scatter(terms: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Out of a region: [B, S, H], to be summed over ranks -> this rank's part of the sum [B, S / tp, H]."""
    return _ReduceScatter.apply(terms, group)


def collect(part: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, S / tp, H] -> [B, S, H] for what every rank then computes alike. Backward: this rank's part."""
    return _Collect.apply(part, group)


def gather_through(part: Tensor, linears: Sequence[nn.Module], group: dist.ProcessGroup, again: bool) -> list[Tensor]:
    """Into a region through linear layers that read the same: [B, S / tp, H] -> of each [B, S, outputs].

    again: their input is gathered a second time in the backward pass instead of being kept.
    """
    if again and torch.compiler.is_compiling():  # which cannot trace hooks, and repeats all that is inside
        whole = checkpoint(gather, part, group, use_reentrant=False)
        return [linear(whole) for linear in linears]
    whole = gather(part, group)
    with gathered_again(part, whole, group) if again else nullcontext():
        return [linear(whole) for linear in linears]


def gathered_again(part: Tensor, whole: Tensor, group: dist.ProcessGroup) -> saved_tensors_hooks:
    """Inside this `with`, autograd keeps `part` wherever it would keep `whole`, and gathers once more when it needs it.

    All that share the `with` share that gather, so its result lives from the first of them to the last.
    """
    address = whole.untyped_storage().data_ptr()
    again = _Once(lambda: _gathered(part.detach(), group))

    def pack(kept: Tensor) -> Tensor | Callable[[], Tensor]:
        if kept.untyped_storage().data_ptr() != address:
            return kept
        place = kept.size(), kept.stride(), kept.storage_offset()
        return lambda: again().as_strided(*place)

    return saved_tensors_hooks(pack, lambda packed: packed if isinstance(packed, Tensor) else packed())


class _Once:
    """Calls a function when it is first asked, and keeps the result as long as itself."""

    def __init__(self, function: Callable[[], Tensor]):
        self.function = function
        self.result: Tensor | None = None

    def __call__(self) -> Tensor:
        if self.result is None:
            self.result = self.function()
        return self.result


def _gathered(part: Tensor, group: dist.ProcessGroup) -> Tensor:
    rows, length = part.shape[:2]
    whole = part.new_empty(rows, length * group.size(), *part.shape[2:])
    if whole.numel():  # a layer that is skipped sees no rows
        dist.all_gather_into_tensor(whole.flatten(), part.flatten(), group=group)
    return whole


def _reduced_part(terms: Tensor, group: dist.ProcessGroup) -> Tensor:
    rows, length = terms.shape[:2]
    part = terms.new_empty(rows, length // group.size(), *terms.shape[2:])
    if part.numel():
        dist.reduce_scatter_tensor(part.flatten(), terms.flatten(), group=group)
    return part


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _gathered(part, group)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _reduced_part(gradient, ctx.group), None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, terms: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _reduced_part(terms, group)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _gathered(gradient, ctx.group), None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _gathered(part, group)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return part_of_tokens(gradient, ctx.group.rank(), ctx.group.size()), None
