"""Slimming coefficients: where they act, what pulls them, what pruning by them means."""

import numpy as np
import pytest
import torch

from tests.support.running import build, random_batch, random_weight, run, small_config

SLIM = small_config(slimming={"heads": 0.3, "ffn": 0.2})


def with_coefficients(config, value_of):
    model = build(config)
    model.load_weights(lambda name: value_of(name) if name.endswith("coefficients") else random_weight(config, name))
    return model


def penalty(model):
    (slimming,) = model.parts
    return slimming.loss_term(model, model.tp)


def test_ones_are_the_plain_model():
    batch = random_batch(SLIM, "packed")
    model = with_coefficients(SLIM, lambda name: torch.ones(4 if "attention" in name else 32))
    plain = build(small_config())
    assert model(batch).mlm_loss.item() == pytest.approx(plain(batch).mlm_loss.item(), rel=1e-13)


def test_a_coefficient_multiplies_its_heads_probabilities_and_its_units_activation():
    """Zero removes exactly that head and that unit: the smaller model computes the same."""
    keep_heads, keep_units = torch.tensor([0, 2, 3]), torch.arange(32)[torch.arange(32) != 5]

    def value_of(name):
        value = random_weight(SLIM, name)
        value[1 if "attention" in name else 5] = 0
        return value

    small = small_config(heads=3, head_dim=6, ffn=31, slimming={})

    def kept(name):
        weight = value_of(name) if name.endswith("coefficients") else random_weight(SLIM, name)
        if "blocks" in name:
            for axis, size in enumerate(weight.shape):
                if size == 4 and "attention" in name:
                    weight = weight.index_select(axis, keep_heads)
                if size == 32 and "feedforward" in name:
                    weight = weight.index_select(axis, keep_units)
        return weight

    pruned = build(small)
    pruned.load_weights(kept)
    batch = random_batch(SLIM, "packed")
    assert pruned(batch).mlm_loss.item() == pytest.approx(
        with_coefficients(SLIM, value_of)(batch).mlm_loss.item(), rel=1e-12
    )


@pytest.mark.parametrize("size", [1, 2])
def test_the_penalty_is_in_the_loss_once_for_the_whole_batch(size):
    batch = random_batch(SLIM, "packed")
    free = run(SLIM.replace(slimming={"heads": 0, "ffn": 0}), batch, size)
    pulled = run(SLIM, batch, size)
    names = [name for name in pulled.gradients if name.endswith("coefficients")]
    strengths = {name: 0.3 if "attention" in name else 0.2 for name in names}
    total = sum(strengths[name] * random_weight(SLIM, name).abs().sum().item() for name in names)
    share = 0.25 * len(batch.masked_ids)  # mlm_scale times the masked tokens: all shares of a step sum to 1
    assert pulled.outputs["loss"] - free.outputs["loss"] == pytest.approx(share * total, rel=1e-10)
    for name in names:
        pull = pulled.gradients[name] - free.gradients[name]
        np.testing.assert_allclose(pull, share * strengths[name] * np.sign(random_weight(SLIM, name)), atol=1e-10)
        assert np.abs(free.gradients[name]).max() > 1e-4


def test_a_shared_block_is_pulled_once_for_each_layer():
    config = SLIM.replace(layers=4, sharing=1)
    model = build(config)
    total = penalty(model)
    total.backward()
    for name, parameter in model.named_parameters():
        if name.endswith("coefficients"):  # the mean over 4 uses of 4 equal pulls
            expected = (0.3 if "attention" in name else 0.2) * parameter.sign()
            torch.testing.assert_close(parameter.grad, expected)
    untied = build(SLIM.replace(layers=4))
    untied.load_weights(
        lambda name: random_weight(config, name.replace(name.split(".")[1], "0") if "blocks" in name else name)
    )
    assert penalty(untied).item() == pytest.approx(total.item())


def test_l1_pulls_the_coefficient_of_a_useless_head_down():
    """A head whose output weights are zero does nothing: only the penalty moves its coefficient."""
    model = with_coefficients(SLIM, lambda name: torch.ones(4 if "attention" in name else 32))
    with torch.no_grad():
        model.blocks[0].attention.output.weight[:, :6] = 0
    optimizer = torch.optim.SGD([model.blocks[0].attention.coefficients], lr=0.1)
    for _ in range(20):
        model(random_batch(SLIM), mlm_scale=1 / 9).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    values = model.blocks[0].attention.coefficients.detach()
    assert values[0].item() == pytest.approx(1 - 20 * 0.1 * 0.3, abs=1e-6)
    assert (values[1:] != 1).all()
