"""Heads at inner layers: what runs, what it costs, what is refused. Parity with transformers is in
`tests/pretrain/interop/test_huggingface.py`."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from model.errors import UserError
from pretrain.cost.flops import training_flops
from pretrain.use.api import Model
from tests.support.running import assert_close, build, random_batch, random_weight, run, small_config

INNER = {"sentences": {"sentence_layer": 2}, "words": {"mlm_layer": 1}}


@pytest.mark.parametrize("heads", INNER.values(), ids=INNER)
def test_on_the_last_layer_nothing_changes(heads):
    plain = small_config(norm="pre", layers=3)
    last = plain.replace(**dict.fromkeys(heads, 3))
    assert last.variants == {}
    assert_close(run(last, random_batch(plain)), run(plain, random_batch(plain)), tolerance=0)


def test_computing_again_changes_nothing():
    config = small_config(layers=3, mlm_layer=1, hidden_dropout=0.1)
    batch, gradients = random_batch(config, "packed"), []
    for recompute in (False, True):
        model = build(config).train()
        model.recompute = recompute
        torch.manual_seed(3)
        model(batch).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_without_pairs_only_the_layers_below_the_words_run():
    config = small_config(layers=3, mlm_layer=1)
    model, batch = build(config), random_batch(config)
    ran: list[int] = []
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    model(replace(batch, sentence_positions=None, sentence_labels=None))
    assert ran == [0]
    model(batch)
    assert ran == [0, 0, 1, 2]


def test_scores_in_python_are_those_of_the_layer_that_words_are_read_from():
    config = small_config(layers=3, mlm_layer=1)
    ids = random_batch(config).ids
    models = (config, config.replace(mlm_layer=None), config.replace(layers=1, mlm_layer=None))
    ours, plain, lower = (Model(each, partial(random_weight, each), None)(ids) for each in models)
    assert torch.equal(ours.hidden, plain.hidden)
    assert torch.equal(ours.logits, lower.logits)


def test_costs_are_those_of_a_plain_model():
    plain = small_config(layers=3)
    assert training_flops(plain.replace(mlm_layer=1), 3, 12, 9) == training_flops(plain, 3, 12, 9)


REFUSED = {
    "no such layer": ({"sentence_layer": 4}, "sentence_layer 4: the model has 3 layers"),
    "frozen": ({"sentence_layer": 1, "frozen_layers": 1}, "sentence_layer 1 is one of the 1 frozen layers"),
    "no head": ({"sentence_layer": 1, "sentence_head": False}, "sentence_layer 1 is for the sentence head"),
    "nothing on top": ({"sentence_layer": 1, "mlm_layer": 2}, "mlm_layer 2 leaves the layers above it without"),
    "words without pairs": ({"mlm_layer": 2, "sentence_head": False}, "mlm_layer 2 leaves the layers above it without"),
    "light": ({"sentence_layer": 2, "light_layers": (1,)}, "sentence_layer and light_layers do not go together"),
    "dropped": ({"sentence_layer": 2, "token_dropping": {}}, "sentence_layer and token_dropping do not go together"),
    "sub-models": ({"mlm_layer": 2, "sub_models": 1}, "mlm_layer and sub_models do not go together"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_means_nothing_is_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        small_config(layers=3, **changes)
    assert "\n" not in str(caught.value)
