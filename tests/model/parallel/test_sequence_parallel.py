"""Tokens divided over the tensor-parallel ranks: the same loss and gradients in float64, own dropout, less kept."""

from dataclasses import replace
from itertools import chain
from unittest.mock import patch

import numpy as np
import pytest
import torch

from model.config import BertConfig
from model.dropout import Dropout, dropout
from model.parallel.tensor import TensorParallel
from tests.support.running import assert_close, build, layout_of, random_batch, run, small_config
from tests.support.variants import VARIANTS
from tests.support.workers import pool

OF_ALL_LENGTHS = {"pool_window", "token_dropping"}
OF_ONE_LENGTH = {name: changes for name, changes in VARIANTS.items() if not OF_ALL_LENGTHS & changes.keys()}


@pytest.mark.parametrize("changes", [{}, {"norm": "pre"}, *OF_ONE_LENGTH.values()], ids=["post", "pre", *OF_ONE_LENGTH])
def test_same_loss_and_gradients(changes):
    config = small_config(**changes)
    batch = random_batch(config, "packed")
    whole = run(config, batch, tensor_parallel=2, training=True)
    assert_close(whole, run(config, batch, tensor_parallel=2, training=True, sequence_parallel=True))


@pytest.mark.parametrize("layout", ["full", "padded"])
def test_four_ranks(layout):
    config = small_config()
    batch = random_batch(config, layout)
    assert_close(run(config, batch), run(config, batch, tensor_parallel=4, sequence_parallel=True))


def place(**changes) -> TensorParallel:
    tp = layout_of(2).install()
    return replace(tp, sequence_parallel=True, **changes)


def masks(config: BertConfig) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What this rank drops of hidden states, and of attention."""
    model = build(config, place()).train()
    hidden: list[np.ndarray] = []
    attention: list[np.ndarray] = []
    for module in model.modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(lambda module, inputs, output: hidden.append((output == 0).numpy()))

    def dropped(probabilities: torch.Tensor, probability: float) -> torch.Tensor:
        attention.append((dropout(torch.ones_like(probabilities), probability) == 0).numpy())
        return probabilities

    torch.manual_seed(5)
    with patch("model.attention.dropout", dropped):
        model(random_batch(config))
    return hidden, attention


def test_every_rank_drops_other_elements():
    config = small_config(hidden_dropout=0.3, attention_dropout=0.3)
    left, right = pool(2).run(masks, config)
    assert [len(each) for each in left] == [1 + 2 * config.layers, config.layers]
    for one, other in zip(chain(*left), chain(*right), strict=True):
        assert one.shape in ((3, 6, config.hidden), (3, config.heads // 2, 12, 12))
        assert not np.array_equal(one, other)
        assert 0.2 < one.mean() < 0.4


def gradients(config: BertConfig, recompute: bool, gathers_again: bool) -> dict[str, np.ndarray]:
    model = build(config, place(gathers_again=gathers_again)).train()
    model.recompute = recompute
    torch.manual_seed(5)
    model(random_batch(config)).loss.backward()
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("recompute", "gathers_again"), [(False, False), (True, False), (True, True)])
def test_gathering_and_computing_again_change_nothing(recompute, gathers_again):
    config = small_config(hidden_dropout=0.3, attention_dropout=0.3)
    plain = pool(2).run(gradients, config, False, True)
    other = pool(2).run(gradients, config, recompute, gathers_again)
    for rank in range(2):
        for name, gradient in plain[rank].items():
            assert np.array_equal(gradient, other[rank][name]), name
