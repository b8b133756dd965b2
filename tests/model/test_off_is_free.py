"""A plain BERT pays nothing for the variants: it runs exactly the operations listed here, which know none of them."""

from collections import Counter

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.running import build, random_batch, small_config

ONE_LAYER = {
    "aten.addmm.default": 6,
    "aten.mm.default": 12,
    "aten.bmm.default": 6,
    "aten._softmax.default": 1,
    "aten._softmax_backward_data.default": 1,
    "aten.native_layer_norm.default": 2,
    "aten.native_layer_norm_backward.default": 2,
    "aten.gelu.default": 1,
    "aten.gelu_backward.default": 1,
    "aten.random_.from": 3,  # dropout: random words, the mask out of them, its scale
    "aten.ge.Scalar_out": 3,
    "aten.mul_.Tensor": 3,
    "aten.empty.memory_format": 6,
    "aten.mul.Tensor": 8,
    "aten.add.Tensor": 6,
    "aten.sum.dim_IntList": 6,
    "aten.clone.default": 8,
}
"""Forward and backward pass of one layer in training mode, without views."""

OUTSIDE_THE_LAYERS = {
    "aten.embedding.default": 2,
    "aten.embedding_dense_backward.default": 2,
    "aten.slice_backward.default": 1,
    "aten.addmm.default": 4,
    "aten.mm.default": 8,
    "aten.native_layer_norm.default": 2,
    "aten.native_layer_norm_backward.default": 2,
    "aten.gelu.default": 1,
    "aten.gelu_backward.default": 1,
    "aten.tanh.default": 1,
    "aten.tanh_backward.default": 1,
    "aten.random_.from": 1,
    "aten.ge.Scalar_out": 1,
    "aten.mul_.Tensor": 2,
    "aten.mul.Tensor": 7,
    "aten.add.Tensor": 5,
    "aten.sum.dim_IntList": 5,
    "aten.sum.default": 3,
    "aten.clone.default": 1,
    "aten.index.Tensor": 2,
    "aten.index_put.default": 2,
}
NUM_OUTSIDE_THE_LAYERS = 107
VIEWS = ("view", "transpose", ".t.", "expand", "detach", "slice.Tensor", "select", "unsqueeze", "squeeze", "alias")


class Operations(TorchDispatchMode):
    """Counts every operation that reaches a kernel."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not any(view in str(function) for view in VIEWS):
            self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


def operations(config) -> Counter:
    model = build(config).train()
    batch = random_batch(config)
    with Operations() as recorded:
        model(batch).loss.backward()
    return recorded.counts


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_plain_model_runs_the_same_operations(norm):
    config = small_config(norm=norm, hidden_dropout=0.1, attention_dropout=0.1)
    one, two = operations(config.replace(layers=1)), operations(config)
    assert two - one == Counter(ONE_LAYER)
    assert one - two == Counter()
    outside = one - Counter(ONE_LAYER)
    assert {name: outside[name] for name in OUTSIDE_THE_LAYERS} == OUTSIDE_THE_LAYERS
    assert sum(outside.values()) == NUM_OUTSIDE_THE_LAYERS, sorted(outside.items())


def test_a_plain_model_has_no_variant():
    assert small_config().variants == {}
