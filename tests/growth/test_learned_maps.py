"""LiGO's maps, in float64: the weights they make, where their gradients go, what they cost."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from growth.learned_maps import LearnedMaps, map_flops, num_coefficients
from growth.new_units import NewUnits
from growth.operators import make_operator, shape_change
from growth.operators.base import Inputs
from growth.operators.multilevel import at_depth
from growth.operators.width import changed_widths
from model.parameters import parameter_table
from tests.support.proving import PRE, change_of, grown, random_state, tiny

SOURCE = PRE
WANTED = {"layers": 5, "hidden": 18, "heads": 5, "ffn": 13}
TARGET = PRE.replace(**WANTED)

SIDES = {
    **dict.fromkeys(("embeddings.word.weight", "embeddings.position.weight", "embeddings.token_type.weight"), "-h"),
    **{f"attention.{name}.weight": f"{name[0]}h" for name in ("query", "key", "value")},
    **{f"attention.{name}.bias": name[0] for name in ("query", "key", "value")},
    **{"attention.output.weight": "hv", "attention.output.bias": "h"},
    **{"feedforward.input.weight": "fh", "feedforward.input.bias": "f", "feedforward.gate.weight": "fh"},
    **{"feedforward.gate.bias": "f", "feedforward.output.weight": "hf", "feedforward.output.bias": "h"},
    **{"mlm.transform.weight": "mh", "mlm.transform.bias": "m", "mlm.norm.weight": "m", "mlm.norm.bias": "m"},
    **{"mlm.bias": "-", "pooler.weight": "ph", "pooler.bias": "p", "sentence.weight": "-p", "sentence.bias": "-"},
}
"""By parameter: the first letters of the maps of its outputs and inputs. Norms: that of the residual stream."""
IN_A_BLOCK = {"q": "query", "k": "key", "v": "value", "f": "ffn"}
OUTSIDE = {"h": "hidden", "m": "mlm", "p": "pooler"}


def generic(source, target) -> LearnedMaps:
    """With entries that no initial value has."""
    torch.manual_seed(0)
    return LearnedMaps.drawn(source, target, 0).each(lambda tensor: torch.randn(tensor.shape, dtype=torch.float64))


def by_numpy(maps: LearnedMaps, state, spec) -> np.ndarray:
    """The paper's formula, written out."""

    def matrix(letter: str, size: int) -> np.ndarray:
        name = f"blocks.{spec.block}.{IN_A_BLOCK[letter]}" if letter in IN_A_BLOCK else OUTSIDE.get(letter)
        rows = [maps.width[name].numpy()] if name in maps.width else []
        return np.vstack([np.eye(size), *rows])

    if spec.block is None or maps.source.layers == maps.target.layers:
        weight = state[spec.name].weight.numpy()
    else:
        weight = 0.0
        for layer in range(maps.source.layers):
            weight = (
                weight + maps.depth[spec.name][layer].item() * state[f"blocks.{layer}.{spec.local_name}"].weight.numpy()
            )
    letters = SIDES.get(spec.local_name, "h")
    sizes = [axis.size for axis in spec.axes]
    num_outputs = 1 if len(letters) == 1 else weight.shape[0]
    if letters[0] in "qkv":
        num_outputs = weight.shape[0] * weight.shape[1]
    if len(letters) == 1:
        vector = weight.reshape(-1)
        return (matrix(letters, len(vector)) @ vector).reshape(sizes)
    flat = weight.reshape(num_outputs, -1)
    return (matrix(letters[0], flat.shape[0]) @ flat @ matrix(letters[1], flat.shape[1]).T).reshape(sizes)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        pytest.param(SOURCE, WANTED, id="all"),
        pytest.param(tiny(), {"hidden": 18, "ffn": 13}, id="width"),
        pytest.param(tiny(), {"layers": 3}, id="depth"),
        pytest.param(tiny(norm_type="rms", gated=True, positions="rotary"), WANTED, id="gated"),
    ],
)
def test_weights_are_those_of_the_formula(source, wanted):
    target, state = source.replace(**wanted), random_state(source)
    maps = generic(source, target)
    change = shape_change(source, [make_operator("ligo", {})], wanted, Inputs(state.__getitem__, learn=lambda *_: maps))
    assert change.target == target
    for name, spec in parameter_table(target).items():
        weight = change.record(name, state.__getitem__).weight.numpy()
        np.testing.assert_allclose(weight, by_numpy(maps, state, spec), rtol=1e-12, atol=1e-13, err_msg=name)


def test_maps_start_as_in_the_released_code():
    maps, again, other = (LearnedMaps.drawn(SOURCE, TARGET, seed) for seed in (0, 0, 1))
    for one, same, different in zip(maps.tensors(), again.tensors(), other.tensors(), strict=True):
        assert torch.equal(one, same) and not torch.equal(one, different)
        torch.testing.assert_close(one.sum(-1), torch.ones(one.shape[:-1]))
        assert (one >= 0).all()
    for name, weights in maps.depth.items():
        spec = parameter_table(TARGET)[name]
        assert weights.argmax() == spec.block % SOURCE.layers and weights.max() > 0.9
    assert sum(tensor.numel() for tensor in maps.tensors()) == num_coefficients(SOURCE, TARGET)
    assert maps.width.keys() == {
        *OUTSIDE.values(),
        *(f"blocks.{layer}.{kind}" for layer in range(5) for kind in IN_A_BLOCK.values()),
    }


def test_with_one_weight_and_copied_rows_it_is_stacking_and_copying():
    """w the pattern of stacking, B a selection: StackBERT's layers, Net2Net's copies (but for what takes them in)."""
    state = random_state(SOURCE)

    def patterned(maps: LearnedMaps, *_) -> LearnedMaps:
        return maps.each(lambda tensor: torch.eye(*tensor.shape) if tensor.dim() == 2 else tensor.round())

    deep = shape_change(SOURCE, [make_operator("ligo", {})], {"layers": 4}, Inputs(learn=patterned))
    stacked = grown(change_of(SOURCE, {"stack": {}}, {"layers": 4}), state)
    for name, record in grown(deep, state).items():
        for mine, other in zip(record.tensors(), stacked[name].tensors(), strict=True):
            assert torch.equal(mine, other), name
    wide = shape_change(SOURCE, [make_operator("ligo", {})], {"ffn": 14}, Inputs(learn=patterned))
    copies = grown(change_of(SOURCE, {"widen": {"noise": 0}}, {"ffn": 14}), state)
    for name, record in grown(wide, state).items():
        if "feedforward.output.weight" not in name:
            assert torch.equal(record.weight, copies[name].weight), name


def test_old_units_keep_their_moments_and_new_ones_begin_without():
    state = random_state(SOURCE)
    after = grown(change_of(SOURCE, {"ligo": {"steps": 0}}, WANTED), state)
    anew = grown(change_of(SOURCE, {"ligo": {"steps": 0, "moments": "reset"}}, WANTED), state)
    units = NewUnits.between(changed_widths(at_depth(SOURCE, TARGET.layers), TARGET), 0)
    for name, spec in parameter_table(TARGET).items():
        new = units.where(spec)
        before = state[name if spec.block is None else f"blocks.{spec.block % 2}.{spec.local_name}"]
        corner = tuple(slice(size) for size in before.weight.shape)
        for moment, old in zip(after[name].tensors()[1:], before.tensors()[1:], strict=True):
            assert torch.equal(moment[corner], old)
            assert new is None or torch.equal(new, moment == 0)
        assert after[name].step == before.step
        assert anew[name].step == 0 and not anew[name].exp_avg.any()
        assert torch.equal(anew[name].weight, after[name].weight)


@pytest.mark.parametrize("wanted", [WANTED, {"hidden": 18}, {"layers": 3}, {"ffn": 13, "heads": 4}], ids=str)
def test_the_formula_counts_what_torch_counts(wanted):
    target, state = SOURCE.replace(**wanted), random_state(SOURCE)
    maps = LearnedMaps.drawn(SOURCE, target, 0).each(lambda tensor: tensor.double().requires_grad_())
    with FlopCounterMode(display=False) as counter:
        for spec in parameter_table(target).values():
            old = torch.stack([state[name].weight for name in maps.sources(spec)])
            with torch.no_grad():
                maps.grown(spec, old)
            weight = maps.grown(spec, old)
            if weight.requires_grad:
                weight.sum().backward()
    assert all(tensor.grad is not None for tensor in maps.tensors())
    assert counter.get_total_flops() == map_flops(SOURCE, target) > 0
