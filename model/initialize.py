"""Fresh weights. Each logical tensor comes from a stream of its own, seeded by (seed, name): the same weights for a
seed under any tensor-parallel size, and for a tensor that exists in two shapes with the same dimensions."""

import hashlib
import math

import torch
from torch import Tensor

from model.config import BertConfig
from model.parameters import ParameterSpec, parameter_table

SINUSOID_BASE = 30.0
"""Small, so that even neighbouring positions differ in many dimensions."""


def initial_weight(config: BertConfig, name: str, seed: int) -> Tensor:
    """The fresh fp32 weight of one parameter, in logical shape."""
    spec = parameter_table(config)[name]
    if spec.init != "normal":
        return torch.full(spec.shape, 1.0 if spec.init == "ones" else 0.0)
    if name == "embeddings.position.weight" and config.position_init == "sinusoidal":
        return _sinusoids(spec, rms=2 * config.std)
    if config.attention_init == "aligned" and spec.local_name in ("attention.query.weight", "attention.key.weight"):
        # Equal query and key projections, half again as large: attention starts by similarity, positions included.
        return 1.5 * _normal(spec, f"blocks.{spec.block}.attention.query.weight", config.std, seed)
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


def _sinusoids(spec: ParameterSpec, rms: float) -> Tensor:
    """Vaswani et al. 2017, section 3.5, with a small base and the given root mean square. [positions, H]"""
    num_positions, hidden = spec.shape
    wavelengths = SINUSOID_BASE ** (torch.arange(0, hidden, 2) / hidden)
    angles = torch.arange(num_positions).unsqueeze(1) / wavelengths * (math.pi / 2)
    return (
        torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :hidden] * (rms * math.sqrt(2))
    ).contiguous()
