"""Frozen layers: no gradient, nothing stored for a backward pass, and a stated rule for the tied decoder."""

import copy

import pytest
import torch

from model.errors import UserError
from model.parameters import parameter_table
from tests.support.running import build, random_batch, small_config


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_what_is_frozen_gets_no_gradient_and_does_not_move(norm):
    config = small_config(layers=3, frozen_layers=2, norm=norm)
    model = build(config).train()
    before = copy.deepcopy(model.state_dict())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    for seed in range(5):
        model(random_batch(config, "packed", seed=seed)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("embeddings.", "blocks.0.", "blocks.1."))
        assert frozen == (not parameter_table(config)[name].trainable), name
        assert torch.equal(parameter, before[name]) == frozen, name
        assert not frozen or parameter.grad is None, name


def test_the_decoder_is_frozen_with_the_word_table_and_the_rest_of_the_head_is_trained():
    table = parameter_table(small_config(frozen_layers=1))
    trained = {name for name, spec in table.items() if spec.trainable and spec.block is None}
    assert trained == {name for name in table if name.startswith(("mlm.", "pooler.", "sentence."))}
    assert not table["embeddings.word.weight"].trainable


def test_the_backward_pass_stops_below_the_lowest_trained_layer():
    def saved_tensors(config):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda x: x):
            build(config).train().encode(random_batch(config))
        return len(saved)

    counts = [saved_tensors(small_config(layers=4, frozen_layers=frozen)) for frozen in (1, 2, 3)]
    assert counts[0] > counts[1] > counts[2]
    assert counts[0] - counts[1] == counts[1] - counts[2]
    assert (
        counts[2] < saved_tensors(small_config(layers=1)) + 1
    )  # one trained layer of four stores no more than one of one


def test_gradients_above_equal_those_of_the_unfrozen_model():
    config = small_config(layers=3, frozen_layers=2)
    batch = random_batch(config, "packed")
    models = [build(config), build(config.replace(frozen_layers=0))]
    for model in models:
        model(batch).loss.backward()
    frozen, free = (dict(model.named_parameters()) for model in models)
    for name, parameter in frozen.items():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, free[name].grad), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(frozen_layers=2), "frozen_layers 2 leaves none of 2 layers to train"),
        (dict(frozen_layers=1, sharing=1), "layers 0 and 1 share a block, but frozen_layers 1 makes them different"),
    ],
)
def test_freezing_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        small_config(**changes)
