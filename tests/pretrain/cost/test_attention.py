"""What `plan` says of attention that a GPU can only compute with a mask."""

import pytest

from pretrain.cost import attention
from pretrain.cost.attention import masked_attention
from pretrain.recipe import load_recipe, resolve


@pytest.mark.parametrize(
    ("override", "on_cpu", "installed", "said"),
    [
        (None, False, False, True),
        (None, True, False, False),
        (None, False, True, False),
        ("model.attention_dropout=0", False, False, False),
    ],
)
def test_dropout_without_its_kernel_is_said(monkeypatch, override, on_cpu, installed, said):
    monkeypatch.setattr(attention, "find_spec", lambda name: object() if installed else None)
    run = resolve(load_recipe("large", [override] if override else []), None, 1)
    lines = list(masked_attention(run, on_cpu))
    assert ["attention_dropout 0.1 a GPU computes all products" in line for line in lines] == [True] * said
