"""Kernel attention: phi(q) (phi(k)^T v) / (phi(q) sum phi(k)), linear in the length of the sequence.

Katharopoulos et al. 2020 (arXiv 2006.16236, phi = elu + 1), Choromanski et al. 2021 (Performer, arXiv 2009.14794: relu,
and FAVOR+, whose positive random features approximate the softmax). There are no probabilities to drop out.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import Attention
from model.config import BertConfig
from model.parallel.tensor import TensorParallel

RELU_FLOOR = 1e-3
"""Keeps the relu kernel of any query and key positive."""


class KernelAttention(Attention):
    """The parameters of softmax attention, another way to mix. `mask`: see `segment_membership`."""

    def __init__(self, config: BertConfig, num_heads: int, tp: TensorParallel):
        super().__init__(config, num_heads, tp)
        self.kernel = config.attention
        if self.kernel == "favor":
            directions = random_directions(config.num_kernel_features, config.head_dim)
            self.register_buffer("directions", directions.to(self.norm.weight), persistent=False)  # [m, d]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        query, key = self.features(query, each=-1), self.features(key, each=(-2, -1))  # [B, n, S, m]
        if mask is not None:
            # Every segment g has m features of its own: queries meet only the keys of their segment.
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
