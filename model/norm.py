"""LayerNorm: NVIDIA apex's kernel on CUDA where apex has been built with it, torch's otherwise, with equal results.
RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467): torch's.

Compiled blocks take torch's, which the compiler fuses with what is around it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import BertConfig


def apex_kernel() -> Callable[..., Tensor] | None:
    """The package index's `apex` is another project: only NVIDIA's has the submodule. Without its CUDA extension, which
    it builds on request, that imports all the same and fails at the first use."""
    try:
        import fused_layer_norm_cuda  # noqa: F401
        from apex.normalization.fused_layer_norm import fused_layer_norm_affine
    except ImportError:
        return None
    return fused_layer_norm_affine


fused_layer_norm_affine = apex_kernel()


def fits_apex(x: Tensor) -> bool:
    """Its kernel cannot be launched over no rows, which a dropped layer or an idle sub-model has."""
    return x.is_cuda and x.numel() > 0 and not torch.compiler.is_compiling()


class LayerNorm(nn.Module):
    """Normalises the last dimension: x [..., width] -> [..., width]."""

    def __init__(self, width: int, eps: float, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if fused_layer_norm_affine is not None and self.bias is not None and fits_apex(x):
            return fused_layer_norm_affine(x, self.weight, self.bias, self.weight.shape, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RmsNorm(nn.Module):
    """Divides the last dimension by its root mean square: x [..., width] -> [..., width]."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def make_norm(config: BertConfig, width: int) -> LayerNorm | RmsNorm:
    """The norm of this model, over `width` units."""
    if config.norm_type == "rms":
        return RmsNorm(width, config.norm_eps)
    return LayerNorm(width, config.norm_eps, config.norm_bias)
