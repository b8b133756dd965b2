"""Which kernel computes softmax attention on a GPU. (On a CPU: plain matrix products, see `model.attention`.)

| rows | precision | kernel |
|---|---|---|
| one segment each, no padding | any | torch's scaled_dot_product_attention, without a mask |
| packed or padded | 16 bit | the package flash-attn's; without it torch's varlen_attn, which has no dropout |
| packed or padded | otherwise | scaled_dot_product_attention with a mask: all S x S products of a row |

The mask is also needed in 16 bit: for attention dropout without flash-attn, for heads wider than 256 or not a multiple
of 8, on GPUs before Ampere, and for variants whose `attends_over_runs` is False.

Both packages' kernels are operators to torch.compile: it compiles a block around them as a whole, once for all numbers
and lengths of runs.

The kernels for runs of tokens compute only what a segment may see of itself (Dao et al. 2022, arXiv 2205.14135), or a
window around each token. Causal rows are runs to them even without packing or padding: their window ends at the token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Batch, Runs
from model.parallel.own_draws import Draws, draws

try:
    from flash_attn import flash_attn_varlen_func
except Exception:  # a package built for another torch fails in its own way
    flash_attn_varlen_func = None

Sight = tuple[int, int]
"""How many tokens before it and after it a token sees; -1: all of its run."""
WHOLE_RUN: Sight = (-1, -1)

Kernel = Callable[[Tensor, Tensor, Tensor, Runs, float, Sight], Tensor]
"""query, key, value [T, n, d], the runs of the T tokens, probability of dropout, what a token sees
-> context [T, n, d]."""

LARGEST_HEAD, HEAD_MULTIPLE = 256, 8
"""Widths of a head that the kernels for runs accept."""
OLDEST_DEVICE = (8, 0)
"""The lowest compute capability they run on (Ampere)."""


@dataclass(frozen=True)
class PackedRows:
    """Given to attention instead of a mask where a kernel for runs of tokens is used."""

    runs: Runs
    kernel: Kernel
    sight: Sight = WHOLE_RUN


def packed_rows(batch: Batch, dtype: torch.dtype, head_dim: int, dropout: float) -> PackedRows | None:
    """What attention takes instead of a mask; None: it needs one. `dropout` is 0 in evaluation."""
    if batch.runs is None:
        return None
    kernel = kernel_for_runs(batch.ids.device, dtype, head_dim, dropout)
    return None if kernel is None else PackedRows(batch.runs, kernel, (-1, 0) if batch.causal else WHOLE_RUN)


def kernel_for_runs(device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> Kernel | None:
    """The fastest kernel that can do this; None: there is none."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    if head_dim > LARGEST_HEAD or head_dim % HEAD_MULTIPLE or capability(device) < OLDEST_DEVICE:
        return None
    if flash_attn_varlen_func is not None:
        return flash_attn
    return None if dropout else torch_varlen


@cache
def capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


_over_runs_of: dict[str, Draws] = {}


def with_dropout(kernel: Kernel) -> Kernel:
    """Decorates a kernel for runs that has dropout, which each tensor-parallel rank draws for itself."""

    @wraps(kernel)
    def over_runs(query, key, value, starts, longest, before, after, dropout):
        packed = PackedRows(Runs(starts, longest), kernel, (before, after))
        return _over_runs(query, key, value, packed, dropout)

    _over_runs_of[kernel.__name__] = draws(over_runs)
    return kernel


@with_dropout
def flash_attn(
    query: Tensor, key: Tensor, value: Tensor, runs: Runs, dropout: float, sight: Sight = WHOLE_RUN
) -> Tensor:
    """Its backward pass sums in any order unless told otherwise."""
    starts, longest = runs.starts, runs.longest
    fixed = torch.are_deterministic_algorithms_enabled()
    return flash_attn_varlen_func(
        query, key, value, starts, starts, longest, longest,
        dropout_p=dropout, window_size=sight, deterministic=fixed,
    )  # fmt: skip


def torch_varlen(
    query: Tensor, key: Tensor, value: Tensor, runs: Runs, dropout: float, sight: Sight = WHOLE_RUN
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # which loads torch's compiler

    assert not dropout
    starts, longest = runs.starts, runs.longest
    context = varlen_attn(query, key, value, starts, starts, longest, longest, window_size=sight)
    assert isinstance(context, Tensor)  # a tuple only if asked for more
    return context


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | PackedRows | None, dropout: float
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, with dropout on the probabilities. All [B, n, S, d], a mask bool [B, 1, S, S]."""
    if isinstance(mask, PackedRows):
        return _over_runs(query, key, value, mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout)


def drawing_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | PackedRows | None, dropout: float
) -> tuple:
    """The function for that and its arguments, as `model.parallel.own_draws` takes them."""
    if isinstance(mask, PackedRows):
        runs = mask.runs
        return _over_runs_of[mask.kernel.__name__], query, key, value, runs.starts, runs.longest, *mask.sight, dropout
    return over_rows, query, key, value, *([] if mask is None else [mask]), dropout


@draws
def over_rows(query: Tensor, key: Tensor, value: Tensor, *mask_and_dropout) -> Tensor:
    *mask, dropout = mask_and_dropout
    return fused_attention(query, key, value, mask[0] if mask else None, dropout)


def _over_runs(query: Tensor, key: Tensor, value: Tensor, packed: PackedRows, dropout: float) -> Tensor:
    def tokens(x: Tensor) -> Tensor:  # [B, n, S, d] -> [B * S, n, d], no copies
        return x.transpose(1, 2).flatten(0, 1)

    context = packed.kernel(tokens(query), tokens(key), tokens(value), packed.runs, dropout, packed.sight)
    return context.unflatten(0, (len(query), -1)).transpose(1, 2)
