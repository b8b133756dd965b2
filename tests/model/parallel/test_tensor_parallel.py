"""Tensor parallelism changes where numbers are computed, not which: float64, dropout off."""

import numpy as np
import pytest
import torch

from model.bert import BertForPreTraining
from model.errors import UserError
from model.initialize import initial_weight
from model.parallel.tensor import shard, unshard
from model.parameters import parameter_table
from tests.support.running import assert_close, layout_of, random_batch, run, small_config
from tests.support.workers import pool

SHAPES = {
    "post": (dict(), "full"),
    "pre, padded": (dict(norm="pre"), "padded"),
    "no sentence head, packed": (dict(sentence_head=False), "packed"),
    "shared, packed": (dict(norm="pre", layers=3, sharing=1), "packed"),
    "modern parts, packed": (
        dict(positions="rotary", gated=True, norm="pre", norm_type="rms", embedding_norm=True, first_norm=False),
        "packed",
    ),
    "other activation": (dict(activation="gelu_tanh"), "packed"),
    "no layers, packed": (dict(layers=0, norm="pre"), "packed"),
}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_same_loss_and_gradients(shape, size):
    changes, layout = SHAPES[shape]
    config = small_config(**changes)
    batch = random_batch(config, layout)
    alone = run(config, batch)
    assert_close(alone, run(config, batch, tensor_parallel=size))
    still = {name for name, gradient in alone.gradients.items() if np.abs(gradient).max() < 1e-6}
    assert all(name.endswith("key.bias") for name in still), still  # the softmax does not see it: its gradient is 0


def fresh_shards(config, size):
    tp = layout_of(size).install()
    model = BertForPreTraining(config, tp)
    model.load_weights(lambda name: initial_weight(config, name, seed=7))
    table = parameter_table(config)
    return {
        name: parameter.detach().reshape(table[name].local_shape(size)).numpy()
        for name, parameter in model.named_parameters()
    }


def test_same_initial_weights():
    config = small_config()
    ranks = pool(2).run(fresh_shards, config, 2)
    for name, spec in parameter_table(config).items():
        logical = unshard(spec, [torch.from_numpy(rank[name]) for rank in ranks])
        assert torch.equal(logical, initial_weight(config, name, seed=7)), name


def test_shards_join_to_the_logical_tensor():
    config = small_config()
    for name, spec in parameter_table(config).items():
        tensor = torch.randn(spec.shape)
        for size in (1, 2, 4):
            parts = [shard(spec, tensor, rank, size) for rank in range(size)]
            assert all(tuple(part.shape) == spec.local_shape(size) for part in parts), name
            assert torch.equal(unshard(spec, parts), tensor), name


def test_a_size_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"tensor_parallel 3 does not divide.*\(256\)"):
        small_config(heads=3, head_dim=8, ffn=66).check_tensor_parallel(3)
    with pytest.raises(UserError, match=r"heads of block 1 \(2\)"):
        small_config(heads=(4, 2)).check_tensor_parallel(4)
