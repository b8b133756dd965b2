"""LayerNorm: NVIDIA apex's kernel on CUDA where that submodule imports, torch's otherwise, with equal results.

Compiled blocks take torch's, which the compiler fuses with what is around it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:  # the package index's `apex` is another project: only NVIDIA's has this submodule
    from apex.normalization.fused_layer_norm import fused_layer_norm_affine
except ImportError:
    fused_layer_norm_affine = None


class LayerNorm(nn.Module):
    """Normalises the last dimension: x [..., width] -> [..., width]."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if fused_layer_norm_affine is not None and x.is_cuda and not torch.compiler.is_compiling():
            return fused_layer_norm_affine(x, self.weight, self.bias, self.weight.shape, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
