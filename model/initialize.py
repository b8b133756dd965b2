"""Fresh weights. Each logical tensor has its own random stream, seeded by (seed, name): one seed gives the same weights
under any tensor-parallel size, and in any two shapes where the tensor has the same dimensions."""

import hashlib
import math

from model.config import BertConfig
from model.lazy import Tensor, torch
from model.parameters import ParameterSpec, parameter_table

SINUSOID_BASE = 30.0
"""Small, so that neighbouring positions already differ in many dimensions."""


def initial_weight(config: BertConfig, name: str, seed: int) -> Tensor:
    """The fresh fp32 weight of one parameter, in logical shape."""
    spec = parameter_table(config)[name]
    if spec.init != "normal":
        return torch.full(spec.shape, 1.0 if spec.init == "ones" else 0.0)
    if name == "embeddings.position.weight" and config.position_init == "sinusoidal":
        return _sinusoids(spec, rms=2 * config.std)
    if config.attention_init != "independent" and spec.local_name in ("attention.query.weight", "attention.key.weight"):
        # Equal query and key projections, 1.5 times as large: attention starts by similarity, positions included.
        query = 1.5 * _normal(spec, f"blocks.{spec.block}.attention.query.weight", config.std, seed)
        turned = config.attention_init == "neighbours" and spec.local_name == "attention.key.weight"
        return _keys_of_neighbours(query) if turned else query
    std = config.std
    if config.output_init == "scaled" and spec.local_name.startswith(("attention.output.", "feedforward.output.")):
        # Shoeybi et al. 2019 (Megatron-LM, arXiv 1909.08053), after GPT-2: the sum over all layers keeps its size.
        std /= math.sqrt(2 * config.layers)
    if rank := next((axis.size for axis in spec.axes if axis.name == "rank"), None):
        # Two factors whose product has the usual standard deviation.
        return _normal(spec, name, (std / rank**0.5) ** 0.5, seed)
    return _normal(spec, name, std, seed)


def _normal(spec: ParameterSpec, stream: str, std: float, seed: int) -> Tensor:
    """Truncated at two standard deviations, as in BERT."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.nn.init.trunc_normal_(torch.empty(spec.shape), std=std, a=-2 * std, b=2 * std, generator=generator)


def _keys_of_neighbours(query: Tensor) -> Tensor:
    """Key projections by which each head looks at one neighbour: head 0 one token to the left, head 1 one to the
    right, head 2 two to the left, and so on. [heads, head_dim, H]

    A step along the sinusoids turns each of their pairs by a fixed angle (Vaswani et al. 2017, section 3.5), so the
    key projection is the query's with its columns turned by that angle.
    """
    num_heads, _, hidden = query.shape
    head = torch.arange(num_heads)
    steps_to_query = (head // 2 + 1) * (1 - 2 * (head % 2))  # 1, -1, 2, -2, ...
    turns = torch.polar(torch.ones(()), steps_to_query[:, None, None] * _angles(hidden))  # [heads, 1, H/2]
    pairs = torch.view_as_complex(query.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2)


def _sinusoids(spec: ParameterSpec, rms: float) -> Tensor:
    """Vaswani et al. 2017, section 3.5, with a small base and the given root mean square. [positions, H]"""
    num_positions, hidden = spec.shape
    angles = torch.arange(num_positions).unsqueeze(1) * _angles(hidden)
    return (
        torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :hidden] * (rms * math.sqrt(2))
    ).contiguous()


def _angles(hidden: int) -> Tensor:
    """The angle by which each pair of sine and cosine turns from one position to the next. [ceil(H/2)]"""
    return (math.pi / 2) / SINUSOID_BASE ** (torch.arange(0, hidden, 2) / hidden)
