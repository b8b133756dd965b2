"""Attention by a kernel: the features that replace the softmax, and how segments stay apart."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import Attention
from model.batch import Batch
from model.config import BertConfig
from model.parallel.tensor import TensorParallel
from model.variants.parts import Parts

RELU_FLOOR = 1e-3
"""Keeps the relu kernel positive for every query and key."""


class KernelAttention(Attention):
    """Has the parameters of softmax attention and mixes tokens differently. `mask`: see `segment_membership`."""

    def __init__(self, config: BertConfig, num_heads: int, tp: TensorParallel):
        super().__init__(config, num_heads, tp)
        self.kernel = config.attention
        if self.kernel == "favor":
            like_parameters = torch.empty(0)  # the current default device and type
            directions = random_directions(config.num_kernel_features, config.head_dim)
            self.register_buffer("directions", directions.to(like_parameters), persistent=False)  # [m, d]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        query, key = self.features(query, each=-1), self.features(key, each=(-2, -1))  # [B, n, S, m]
        if mask is not None:
            # Every segment g has its own m features: queries meet only the keys of their segment.
            query, key = ((x.unsqueeze(-2) * mask).flatten(-2) for x in (query, key))  # [B, n, S, G*m]
        memory = key.transpose(-2, -1) @ value  # [B, n, G*m, d]
        weight = query @ key.sum(-2).unsqueeze(-1)  # [B, n, S, 1], 0 for padding
        return (query @ memory) / weight.clamp_min(torch.finfo(weight.dtype).tiny)

    def features(self, x: Tensor, each: int | tuple[int, ...]) -> Tensor:
        """phi: [B, n, S, d] -> [B, n, S, m], positive, up to a factor common to the dimensions `each` (it cancels)."""
        if self.kernel == "elu":
            return F.elu(x) + 1
        if self.kernel == "relu":
            return F.relu(x) + RELU_FLOOR
        precise = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        precise = precise * x.shape[-1] ** -0.25  # the softmax divides q k by sqrt(d)
        exponents = precise @ self.directions.to(precise.dtype).T - precise.square().sum(-1, keepdim=True) / 2
        return (exponents - exponents.detach().amax(each, keepdim=True)).exp().to(x.dtype)


def segment_membership(segments: Tensor | None) -> Tensor | None:
    """Which segment each token belongs to: segments [B, S] -> bool [B, 1, S, G, 1], padding to none; None: all one."""
    if segments is None:
        return None
    numbers = torch.arange(1, int(segments.max()) + 1, device=segments.device)  # waits for the device
    return (segments.unsqueeze(-1) == numbers)[:, None, :, :, None]


def random_directions(num_features: int, head_dim: int) -> Tensor:
    """Normal vectors [m, d], orthogonal within each group of d: lower variance than independent ones. fp64, on the CPU.

    The same in every layer, head, rank and run: a part of the shape, not of the training state.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (math.ceil(num_features / head_dim), head_dim, head_dim)
    normal, other = torch.randn((2, *shape), generator=generator, dtype=torch.float64, device="cpu")
    directions = torch.linalg.qr(normal).Q * other.norm(dim=-1, keepdim=True)
    return directions.flatten(0, 1)[:num_features]


class KernelAttentionParts(Parts):
    def make_attention(self, block: int, tp: TensorParallel) -> KernelAttention:
        return KernelAttention(self.config, self.config.block_heads(block), tp)

    def make_mask(self) -> Callable[[Batch], Tensor | None]:
        return lambda batch: segment_membership(batch.segments)
