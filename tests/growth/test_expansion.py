"""The algebra of axis maps over random shapes, counts and maps: matrices first, then a whole BERT in float64."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from growth.expansion import AxisMap, Dense, expand, map_axes
from growth.operators.width import axis_maps
from growth.state import Record
from model.parameters import Axis, ParameterSpec
from tests.support.proving import (
    adam_moments,
    grown,
    loss_and_gradients,
    pulled_back,
    pushed_forward,
    random_state,
    summed_over_uses,
    tiny,
    worst,
)


@st.composite
def copies(draw, max_old: int = 6, max_more: int = 8) -> AxisMap:
    """A random index map in random order, every old unit copied at least once."""
    old = draw(st.integers(1, max_old))
    more = draw(st.lists(st.integers(0, old - 1), max_size=max_more))
    return AxisMap.copies(draw(st.permutations([*range(old), *more])), old)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(copies())
def test_copies_preserve_the_function(pair):
    produce, consume = pair.produce.dense(), pair.consume.dense()
    torch.testing.assert_close(consume.T @ produce, torch.eye(produce.shape[1], dtype=torch.float64))


@given(copies(), copies())
def test_expand_is_the_formula(out, into):
    spec = ParameterSpec(
        "w", (Axis("out", len(out.produce.index), "produced"), Axis("in", len(into.produce.index), "consumed"))
    )
    old = (out.produce.old_size, into.produce.old_size)
    record = Record(random(*old), random(*old, seed=1), random(*old, seed=2).square(), 7)
    after = expand(spec, record, {"out": out, "in": into})
    p_out, c_out, p_in, c_in = (m.dense() for m in (out.produce, out.consume, into.produce, into.consume))
    torch.testing.assert_close(after.weight, p_out @ record.weight @ c_in.T)
    torch.testing.assert_close(after.exp_avg, c_out @ record.exp_avg @ p_in.T)
    torch.testing.assert_close(after.exp_avg_sq, c_out.square() @ record.exp_avg_sq @ p_in.square().T)
    assert after.step == 7


@given(copies())
def test_one_hot_and_dense_agree(pair):
    tensor = random(3, pair.produce.old_size, 2)
    for matrix in (pair.produce, pair.consume):
        dense = Dense(matrix.dense())
        torch.testing.assert_close(matrix.along(1, tensor), dense.along(1, tensor))
        torch.testing.assert_close(matrix.along_squared(1, tensor.square()), dense.along_squared(1, tensor.square()))


@given(copies())
def test_the_inverse_leads_back(pair):
    old, new = pair.produce.old_size, len(pair.produce.index)
    spec, wide = (ParameterSpec("w", (Axis("a", n, "produced"), Axis("b", n, "consumed"))) for n in (old, new))
    record = Record(random(old, old), random(old, old, seed=1), random(old, old, seed=2).square())
    there = expand(wide, record, {"a": pair, "b": pair})
    back = expand(spec, there, {"a": pair.inverse(), "b": pair.inverse()})
    for left, right in zip(back.tensors(), record.tensors(), strict=True):
        torch.testing.assert_close(left, right)


@given(copies())
def test_noise_cancels(pair):
    noise = pair.without_mean(1, random(4, len(pair.produce.index)))
    torch.testing.assert_close(noise @ pair.produce.dense(), torch.zeros(4, pair.produce.old_size, dtype=torch.float64))


@st.composite
def shapes(draw):
    layers, heads = draw(st.integers(1, 2)), st.integers(1, 3)
    source = tiny(
        layers=layers,
        hidden=draw(st.sampled_from([6, 10])),
        head_dim=draw(st.sampled_from([2, 3])),
        heads=tuple(draw(heads) for _ in range(layers)),
        ffn=tuple(draw(st.integers(2, 7)) for _ in range(layers)),
        norm=draw(st.sampled_from(["post", "pre"])),
        sentence_head=draw(st.booleans()),
    )
    target = source.replace(
        hidden=source.hidden * draw(st.integers(1, 3)),
        heads=tuple(source.block_heads(block) + draw(st.integers(0, 3)) for block in range(layers)),
        ffn=tuple(source.block_ffn(block) + draw(st.integers(0, 5)) for block in range(layers)),
    )
    return source, target, draw(st.integers(0, 2**32))


@settings(max_examples=25, deadline=None)
@given(shapes())
def test_any_widening_preserves_function_and_state(drawn):
    """Random copies in random order: uneven on heads and FFN, equally many of each unit of hidden."""
    source, target, seed = drawn
    generator = torch.Generator().manual_seed(seed)

    def make(axis: str, block: int | None, old: int, new: int) -> AxisMap:
        if axis == "hidden":
            index = torch.arange(new) % old
        else:
            index = torch.cat([torch.arange(old), torch.randint(old, (new - old,), generator=generator)])
        return AxisMap.copies(index[torch.randperm(new, generator=generator)], old)

    change = map_axes(source, target, axis_maps(source, target, make))
    state = random_state(source, seed % 1000)
    after = grown(change, state)
    loss, gradients = loss_and_gradients(source, state)
    new_loss, new_gradients = loss_and_gradients(target, after)
    assert abs(new_loss - loss) <= 1e-12 * abs(loss)
    assert worst(pushed_forward(change, state, gradients), new_gradients) < 1e-9
    old, new = summed_over_uses(source, gradients), summed_over_uses(target, new_gradients)
    assert worst(pulled_back(change, state, new), old) < 1e-9
    step_then_grow, grow_then_step = grown(change, adam_moments(state, gradients)), adam_moments(after, new_gradients)
    for index in (1, 2):
        left = {name: record.tensors()[index] for name, record in step_then_grow.items()}
        right = {name: record.tensors()[index] for name, record in grow_then_step.items()}
        assert worst(left, right) < 1e-9
