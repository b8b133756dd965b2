"""Dropout streams: one for replicated activations, one of each rank's own for activations that are cut."""

from unittest import mock

import numpy as np
import pytest
import torch

from model import attention
from model.dropout import Dropout, dropout
from tests.support.running import build, layout_of, random_batch, run, small_config
from tests.support.workers import pool


def masks_of_a_forward_pass(config, size):
    """This rank's dropout masks of one forward pass: (hidden states, attention probabilities)."""
    hidden, probabilities = [], []
    model = build(config, layout_of(size).install()).train()
    for module in model.modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(lambda module, inputs, output: hidden.append((output == 0).numpy()))

    def watched(x, probability):
        dropped = dropout(x, probability)
        probabilities.append((dropped == 0).numpy())
        return dropped

    torch.manual_seed(5)
    with mock.patch.object(attention, "dropout", watched):
        model(random_batch(config))
    return hidden, probabilities


def test_masks_agree_where_activations_are_replicated_and_differ_where_they_are_cut():
    config = small_config(hidden_dropout=0.3, attention_dropout=0.3)
    (hidden_0, attention_0), (hidden_1, attention_1) = pool(2).run(masks_of_a_forward_pass, config, 2)
    assert len(hidden_0) == 1 + 2 * config.layers
    assert len(attention_0) == config.layers
    for left, right in zip(hidden_0, hidden_1, strict=True):
        assert np.array_equal(left, right)
        assert 0.2 < left.mean() < 0.4
    for left, right in zip(attention_0, attention_1, strict=True):
        assert not np.array_equal(left, right)
        assert 0.2 < left.mean() < 0.4
    assert not np.array_equal(attention_0[0], attention_0[1]), "two layers drew the same mask"
    assert not np.array_equal(hidden_0[1], hidden_0[2])


def replayed_gradients(config, size, recompute):
    model = build(config, layout_of(size).install()).train()
    model.recompute = recompute
    torch.manual_seed(5)
    model(random_batch(config)).loss.backward()
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def test_computing_layers_again_replays_the_masks():
    config = small_config(hidden_dropout=0.3, attention_dropout=0.3)
    plain = pool(2).run(replayed_gradients, config, 2, False)
    replayed = pool(2).run(replayed_gradients, config, 2, True)
    for rank in range(2):
        for name, gradient in plain[rank].items():
            assert np.array_equal(gradient, replayed[rank][name]), name


@pytest.mark.parametrize("size", [1, 2])
def test_gradients_of_replicated_parameters_agree_with_dropout_on(size):
    config = small_config(hidden_dropout=0.1, attention_dropout=0.1)
    run(config, random_batch(config, "packed"), tensor_parallel=size, training=True)  # asserts it


def test_evaluation_draws_nothing():
    config = small_config(hidden_dropout=0.3, attention_dropout=0.3)
    model = build(config)
    before = torch.get_rng_state()
    losses = {model(random_batch(config)).loss.item() for _ in range(2)}
    assert len(losses) == 1
    assert torch.equal(torch.get_rng_state(), before)
