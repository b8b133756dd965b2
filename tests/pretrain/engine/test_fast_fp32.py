"""fp32 through oneDNN only where it is fp32, and only inside."""

import pytest
import torch

from pretrain.engine import fast_fp32 as module
from pretrain.engine.fast_fp32 import LARGEST_ERROR, error_with, fast_fp32


def test_products_inside_have_the_error_of_fp32():
    left, right = torch.randn(2, 300, 300)
    exact = left.double() @ right.double()
    with fast_fp32():
        inside = left @ right
    assert (inside - exact).abs().max() / exact.abs().max() < LARGEST_ERROR
    assert error_with("highest") < LARGEST_ERROR


def test_the_setting_comes_back_after_an_error():
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(KeyError), fast_fp32():
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("error", "setting"), [(1e-3, "highest"), (1e-6, "medium")])
def test_the_probe_decides(error, setting, monkeypatch):
    monkeypatch.setattr(module, "error_with", lambda precision: error)
    with fast_fp32():
        assert torch.get_float32_matmul_precision() == setting


def test_the_probe_sees_products_of_bf16(monkeypatch):
    """They are rounded here, as on a processor with AMX."""
    product = torch.Tensor.__matmul__

    def rounded(left, right):
        if left.dtype == torch.float32:
            left, right = left.bfloat16().float(), right.bfloat16().float()
        return product(left, right)

    probe = error_with.__wrapped__  # not what it found before
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert probe("medium") > 10 * LARGEST_ERROR
    monkeypatch.setattr(module, "error_with", probe)
    with fast_fp32():
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("tf32", "setting"), [(True, "high"), (False, "highest")])
def test_tf32_is_asked_for(monkeypatch, tf32, setting):
    monkeypatch.setattr(module, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(module, "computes_on_gpu", lambda: True)
    with fast_fp32(tf32):
        assert torch.get_float32_matmul_precision() == setting
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_cpu_has_no_tf32(monkeypatch):
    monkeypatch.setattr(module, "error_with", lambda precision: 1.0)
    with fast_fp32(tf32=True):
        assert torch.get_float32_matmul_precision() == "highest"
