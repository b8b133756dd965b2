"""Masked units: the old model at 0, the plain model at 1, and in between what the paper writes."""

import pytest
import torch

from model.bert import BertForPreTraining
from model.errors import UserError
from model.parallel.tensor import TensorParallel
from model.parameters import parameter_table
from model.variants.masked_units.layers import MaskedLayerNorm, UnitMask
from tests.support.running import build, random_batch, random_weight, small_config

OLD = dict(layers=2, hidden=24, heads=4, head_dim=6, ffn=32)
GROWN = {
    "hidden": (dict(hidden=32), {"hidden": 24}),
    "heads": (dict(heads=6), {"heads": 4}),
    "ffn": (dict(ffn=40), {"ffn": 32}),
    "layers": (dict(layers=3), {"layers": (2,)}),
    "everything": (dict(hidden=32, heads=6, ffn=40, layers=3), {"hidden": 24, "heads": 4, "ffn": 32, "layers": (2,)}),
}
grown = pytest.mark.parametrize(("changes", "masked"), GROWN.values(), ids=GROWN)
norms = pytest.mark.parametrize("norm", ["post", "pre"])


def old_weight(config, big, name):
    """The corner of the big model's weight that the old one had."""
    weight = random_weight(big, name)
    for axis, size in enumerate(parameter_table(config)[name].shape):
        weight = weight.narrow(axis, 0, size)
    return weight


@grown
@norms
@pytest.mark.parametrize("extra", [{}, dict(activation="relu", attention_bias=False)], ids=["plain", "relu, no bias"])
def test_at_zero_the_model_is_the_old_one(changes, masked, norm, extra):
    old = small_config(**OLD, norm=norm, **extra)
    big = old.replace(**changes, masked=masked)
    model = build(big)
    before = BertForPreTraining(old).double().eval()
    before.load_weights(lambda name: old_weight(old, big, name))
    batch = random_batch(old, "packed")
    outputs = [model(batch), before(batch)]
    for field in ("loss", "mlm_loss", "sentence_loss"):
        assert getattr(outputs[0], field).item() == pytest.approx(getattr(outputs[1], field).item(), rel=1e-12), field
    for output in outputs:
        output.loss.backward()
    gradients = dict(model.named_parameters())
    for name, parameter in before.named_parameters():
        gradient = gradients[name].grad
        for axis, size in enumerate(parameter.shape):
            gradient = gradient.narrow(axis, 0, size)
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-10, rtol=1e-8, msg=name)


@grown
@norms
def test_at_one_the_model_is_the_plain_one(changes, masked, norm):
    big = small_config(**{**OLD, **changes}, norm=norm, masked={**masked, "steps": 10})
    model, plain = build(big), build(big.replace(masked=None))
    batch = random_batch(big, "packed")
    losses = {}
    for step in (0, 5, 10, 1000):
        model.begin_step(step=step, steps_masked=step)
        losses[step] = model(batch).loss.item()
    assert losses[10] == losses[1000] == pytest.approx(plain(batch).loss.item(), rel=1e-12)
    assert abs(losses[5] - losses[0]) > 1e-6
    assert abs(losses[5] - losses[10]) > 1e-6
    model(batch).loss.backward()
    plain(batch).loss.backward()
    for ours, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad, atol=1e-10, rtol=1e-8)


def test_the_plain_model_knows_no_masks():
    big = small_config(masked={"hidden": 20})
    assert any(isinstance(module, MaskedLayerNorm) for module in build(big).modules())
    assert not any(
        isinstance(module, MaskedLayerNorm | UnitMask) for module in build(big.replace(masked=None)).modules()
    )
    assert parameter_table(big) == parameter_table(big.replace(masked=None))


def test_masked_layer_norm_is_the_papers():
    mask = UnitMask(3, 5, TensorParallel())
    mask.set(0.4)
    norm = MaskedLayerNorm(5, 1e-12, True, mask)
    weight, bias = torch.randn(2, 5)
    norm.load_state_dict({"weight": weight, "bias": bias})
    x = torch.randn(2, 5)
    m = torch.tensor([1, 1, 1, 0.4, 0.4])
    mean = (x * m).sum(-1, keepdim=True) / m.sum()
    variance = ((x - mean) ** 2 * m).sum(-1, keepdim=True) / m.sum()
    expected = ((x - mean) / variance.sqrt() * weight + bias) * m
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(masked={}), "masked names no axis with new units"),
        (dict(masked={"hidden": 25}), "masked.hidden 25 counts the old units and cannot be above hidden 24"),
        (dict(masked={"heads": 5}), "masked.heads 5 counts the old units and cannot be above layer 0's 4"),
        (dict(masked={"ffn": (8, 9)}, ffn=(8, 8)), "masked.ffn 9 counts the old units and cannot be above layer 1's 8"),
        (dict(masked={"ffn": (8,)}), "masked.ffn lists 1 values for 2 layers"),
        (dict(masked={"layers": (2,)}), r"masked.layers \[2\] has to name some, not all, of the layers 0 to 1"),
        (dict(masked={"layers": (1,)}, light_layers=(1,)), "masked.layers and light_layers do not go together"),
    ],
)
def test_refused_masks(changes, message):
    with pytest.raises(UserError, match=message):
        small_config(**changes)


def test_the_masks_start_again_whenever_other_units_are_new():
    plain = small_config(**OLD)
    wide, deep = (plain.replace(**changes, masked=masked) for changes, masked in (GROWN["ffn"], GROWN["layers"]))
    assert wide.restarts_fading(plain) and deep.restarts_fading(wide)
    assert not wide.restarts_fading(wide) and not plain.restarts_fading(plain)
    assert wide.unfinished and not plain.unfinished
