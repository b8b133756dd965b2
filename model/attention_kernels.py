"""The kernels of softmax attention, and which of them does what is asked.

| name | rows | precision | kernel |
|---|---|---|---|
| `flash-attn-3` | packed or padded, causal | 16 bit | the package flash-attn-3's for runs of tokens, without dropout |
| `flash-attn` | the same | 16 bit | the package flash-attn's |
| `varlen` | the same | 16 bit | torch's varlen_attn, which has no dropout |
| `products` | any | any | plain matrix products: on a CPU 2.7 to 4.8 times faster in bf16 than torch's fused kernel |
| `fused` | any | any | torch's scaled_dot_product_attention, with a mask where rows need one: all S x S products |
| `cudnn` | any | 16 bit | the same through cuDNN |

The order without a preference: on a GPU the first of the kernels for runs that can do it, else `fused`; on a CPU
`products`. A run prefers what its recipe names or a trial found (`pretrain.training.attention`): one kernel for rows
with runs of tokens, and one for others.

The kernels for runs need Ampere, `flash-attn-3` Hopper, and heads of up to 256, in multiples of 8. Variants whose
`attends_over_runs` is False take none of them. They compute only what a segment may see of itself (Dao et al. 2022,
arXiv 2205.14135), or a window around each token. Causal rows are runs to them even without packing or padding: their
window ends at the token.

All are operators to torch.compile: it compiles a block around them as a whole, once for all numbers and lengths of
runs. Builds of `flash-attn-3` without flash-attention's pull request 1769 divide the block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.batch import Batch, Runs
from model.parallel.own_draws import Draws, draws

try:
    from flash_attn import flash_attn_varlen_func
except Exception:  # a package built for another torch fails in its own way
    flash_attn_varlen_func = None
try:
    from flash_attn_interface import flash_attn_varlen_func as flash_attn_3_varlen_func
except Exception:
    flash_attn_3_varlen_func = None

Sight = tuple[int, int]
"""How many tokens before it and after it a token sees; -1: all of its run."""
WHOLE_RUN: Sight = (-1, -1)

Kernel = Callable[[Tensor, Tensor, Tensor, Runs, float, Sight], Tensor]
"""query, key, value [T, n, d], the runs of the T tokens, probability of dropout, what a token sees
-> context [T, n, d]."""

LARGEST_HEAD, LARGEST_HEAD_OF_CUDNN, HEAD_MULTIPLE = 256, 128, 8
"""Widths of a head that the kernels for runs and cuDNN's accept."""
OLDEST_DEVICE, HOPPER = (8, 0), (9, 0)
"""The lowest compute capability they run on (Ampere), and the only one of `flash-attn-3`."""


@dataclass(frozen=True)
class PackedRows:
    """Given to attention instead of a mask where a kernel for runs of tokens is used."""

    runs: Runs
    kernel: Kernel
    sight: Sight = WHOLE_RUN


@dataclass(frozen=True)
class Asked:
    """What a kernel is to do."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    dropout: float
    """0 in evaluation."""


@dataclass(frozen=True)
class AttentionKernel:
    obstacle: Callable[[Asked], str | None]
    """Why it cannot do that, to be read after its name; None: it can."""
    over_runs: Kernel | None = None
    """None: it takes a mask, or none where all of a row is seen."""


def packed_rows(
    batch: Batch, dtype: torch.dtype, head_dim: int, dropout: float, preferred: str | None = None
) -> PackedRows | None:
    """What attention takes instead of a mask; None: it needs one. `dropout` is 0 in evaluation."""
    if batch.runs is None:
        return None
    kernel = kernel_for_runs(batch.ids.device, dtype, head_dim, dropout, preferred)
    return None if kernel is None else PackedRows(batch.runs, kernel, (-1, 0) if batch.causal else WHOLE_RUN)


def kernel_for_runs(
    device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float, preferred: str | None = None
) -> Kernel | None:
    """The preferred kernel if it can do this, else the first that can; None: it takes a mask."""
    asked = Asked(device, dtype, head_dim, dropout)
    names = [*KERNELS] if preferred is None else [preferred, *KERNELS]
    return next(KERNELS[name].over_runs for name in names if KERNELS[name].obstacle(asked) is None)


NO_DROPOUT = "has no dropout (model.attention_dropout)"


def _over_runs_or_cudnn(asked: Asked, largest_head: int = LARGEST_HEAD) -> str | None:
    if asked.device.type != "cuda":
        return "needs a GPU"
    if asked.dtype not in (torch.bfloat16, torch.float16):
        return "needs precision bf16 or fp16"
    if asked.head_dim > largest_head or asked.head_dim % HEAD_MULTIPLE:
        return f"takes heads of up to {largest_head} in multiples of {HEAD_MULTIPLE}, not of {asked.head_dim}"
    return "needs a GPU since Ampere" if capability(asked.device) < OLDEST_DEVICE else None


def _flash_attn_3(asked: Asked) -> str | None:
    """Its builds before September 2025 take `deterministic` and ignore it (flash-attention's pull request 1893), and
    no build has it for every head."""
    if obstacle := _over_runs_or_cudnn(asked):
        return obstacle
    if capability(asked.device) != HOPPER:
        return "needs a GPU of Hopper"
    if flash_attn_3_varlen_func is None:
        return "needs the package flash-attn-3, which is not installed here"
    if asked.dropout:
        return NO_DROPOUT
    return "keeps no order of sums (deterministic)" if torch.are_deterministic_algorithms_enabled() else None


def _flash_attn(asked: Asked) -> str | None:
    missing = "needs the package flash-attn, which is not installed here"
    return _over_runs_or_cudnn(asked) or (missing if flash_attn_varlen_func is None else None)


def _torch_varlen(asked: Asked) -> str | None:
    return _over_runs_or_cudnn(asked) or (NO_DROPOUT if asked.dropout else None)


def _cudnn(asked: Asked) -> str | None:
    return _over_runs_or_cudnn(asked, LARGEST_HEAD_OF_CUDNN)


def _nothing(asked: Asked) -> None:
    return None


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


def flash_attn_3(
    query: Tensor, key: Tensor, value: Tensor, runs: Runs, dropout: float, sight: Sight = WHOLE_RUN
) -> Tensor:
    """Shah et al. 2024 (arXiv 2407.08608)."""
    assert not dropout
    starts, longest = runs.starts, runs.longest
    found = flash_attn_3_varlen_func(query, key, value, starts, starts, longest, longest, window_size=sight)
    return found[0] if isinstance(found, tuple) else found  # its first builds return the log-sum-exp, too


def torch_varlen(
    query: Tensor, key: Tensor, value: Tensor, runs: Runs, dropout: float, sight: Sight = WHOLE_RUN
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # which loads torch's compiler

    assert not dropout
    starts, longest = runs.starts, runs.longest
    context = varlen_attn(query, key, value, starts, starts, longest, longest, window_size=sight)
    assert isinstance(context, Tensor)  # a tuple only if asked for more
    return context


KERNELS = {
    "flash-attn-3": AttentionKernel(_flash_attn_3, flash_attn_3),
    "flash-attn": AttentionKernel(_flash_attn, flash_attn),
    "varlen": AttentionKernel(_torch_varlen, torch_varlen),
    "products": AttentionKernel(_nothing),
    "fused": AttentionKernel(_nothing),
    "cudnn": AttentionKernel(_cudnn),
}
"""By the names that a recipe gives them, in the order in which they are asked."""

CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""The others where a later stage asks for what it cannot do."""


def takes_products(preferred: str | None, device: torch.device) -> bool:
    """Whether rows that a mask, or nothing, divides are left to plain matrix products."""
    return preferred == "products" or (device.type == "cpu" and preferred not in ("fused", "cudnn"))


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | PackedRows | None,
    dropout: float,
    preferred: str | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, with dropout on the probabilities. All [B, n, S, d], a mask bool [B, 1, S, S]."""
    if isinstance(mask, PackedRows):
        return _over_runs(query, key, value, mask, dropout)
    if preferred == "cudnn":
        with sdpa_kernel(CUDNN_FIRST, set_priority=True):
            return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout)


def drawing_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | PackedRows | None,
    dropout: float,
    preferred: str | None = None,
) -> tuple:
    """The function for that and its arguments, as `model.parallel.own_draws` takes them."""
    if isinstance(mask, PackedRows):
        runs = mask.runs
        return _over_runs_of[mask.kernel.__name__], query, key, value, runs.starts, runs.longest, *mask.sight, dropout
    function = over_rows_by_cudnn if preferred == "cudnn" else over_rows
    return function, query, key, value, *([] if mask is None else [mask]), dropout


@draws
def over_rows(query: Tensor, key: Tensor, value: Tensor, *mask_and_dropout, preferred: str | None = None) -> Tensor:
    *mask, dropout = mask_and_dropout
    return fused_attention(query, key, value, mask[0] if mask else None, dropout, preferred)


@draws
def over_rows_by_cudnn(query: Tensor, key: Tensor, value: Tensor, *mask_and_dropout) -> Tensor:
    return over_rows(query, key, value, *mask_and_dropout, preferred="cudnn")


def _over_runs(query: Tensor, key: Tensor, value: Tensor, packed: PackedRows, dropout: float) -> Tensor:
    def tokens(x: Tensor) -> Tensor:  # [B, n, S, d] -> [B * S, n, d], no copies
        return x.transpose(1, 2).flatten(0, 1)

    context = packed.kernel(tokens(query), tokens(key), tokens(value), packed.runs, dropout, packed.sight)
    return context.unflatten(0, (len(query), -1)).transpose(1, 2)
