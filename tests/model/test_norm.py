"""apex's LayerNorm is taken only where it can run."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from model import norm


def test_apex_without_its_cuda_extension_is_not_taken(monkeypatch):
    """It imports, and fails in the first LayerNorm."""
    apex, kernel = ModuleType("apex.normalization.fused_layer_norm"), lambda: None
    vars(apex)["fused_layer_norm_affine"] = kernel
    for name in ("apex", "apex.normalization"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, apex.__name__, apex)
    assert norm.apex_kernel() is None
    monkeypatch.setitem(sys.modules, "fused_layer_norm_cuda", ModuleType("fused_layer_norm_cuda"))
    assert norm.apex_kernel() is kernel


def test_apex_gets_no_empty_tensor():
    def on_gpu(*shape: int) -> Any:
        return SimpleNamespace(is_cuda=True, numel=torch.empty(shape).numel)

    assert norm.fits_apex(on_gpu(2, 8))
    assert not norm.fits_apex(on_gpu(0, 8))
    assert not norm.fits_apex(torch.empty(2, 8))
