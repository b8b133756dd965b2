"""What holds for operators over random shapes, patterns and factors, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from growth.state import Record
from model.config import BertConfig
from tests.support.proving import (
    State,
    change_of,
    grown,
    loss_and_gradients,
    pulled_back,
    random_state,
    summed_over_uses,
    tiny,
    worst,
)


def assert_function_preserved(source: BertConfig, grow: dict, wanted: dict, seed: int) -> None:
    state = random_state(source, seed)
    change = change_of(source, grow, wanted)
    loss, gradients = loss_and_gradients(source, state)
    new_loss, new_gradients = loss_and_gradients(change.target, grown(change, state))
    assert new_loss == pytest.approx(loss, rel=1e-12)
    old, new = summed_over_uses(source, gradients), summed_over_uses(change.target, new_gradients)
    assert worst(pulled_back(change, state, new), old) < 1e-9


def assert_same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for name, record in left.items():
        assert record.step == right[name].step
        for a, b in zip(record.tensors(), right[name].tensors(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15, msg=name)


@st.composite
def patterns(draw, most_layers: int = 5) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks of each layer, coarse and fine: every fine block lies in one coarse block."""
    layers = draw(st.integers(2, most_layers))
    coarse = [draw(st.integers(0, layers // 2)) for _ in range(layers)]
    fine = [(block, draw(st.integers(0, 2))) for block in coarse]
    return _numbered(coarse), _numbered(fine)


def _numbered(labels: list) -> tuple[int, ...]:
    seen: dict = {}
    return tuple(seen.setdefault(label, len(seen)) for label in labels)


def num_blocks(pattern: tuple[int, ...]) -> int:
    return max(pattern) + 1


@settings(max_examples=40, deadline=None)
@given(patterns(), st.floats(0, 1), st.integers(0, 99))
def test_sharing_leads_back_from_unsharing(drawn, rho, seed):
    coarse, fine = drawn
    if num_blocks(coarse) == num_blocks(fine):
        return
    tied = tiny(layers=len(coarse), hidden=6, heads=1, ffn=4, sharing=coarse)
    state = random_state(tied, seed)
    apart = change_of(tied, {"unshare": {"correlation": rho}}, {"sharing": fine})
    together = change_of(apart.target, {"share": {"correlation": rho}}, {"sharing": coarse})
    assert together.target == tied
    assert_same(grown(together, grown(apart, state)), state)


@settings(max_examples=10, deadline=None)
@given(patterns(4), st.sampled_from(["post", "pre"]), st.integers(0, 99))
def test_unsharing_preserves_the_function(drawn, norm, seed):
    coarse, fine = drawn
    if num_blocks(coarse) == num_blocks(fine):
        return
    source = tiny(layers=len(coarse), hidden=6, heads=2, head_dim=3, ffn=4, sharing=coarse, norm=norm)
    assert_function_preserved(source, {"unshare": {"correlation": 0}}, {"sharing": fine}, seed)


@settings(max_examples=25, deadline=None)
@given(*[st.integers(1, 3)] * 4, st.integers(0, 99))
def test_coalescing_leads_back_from_decoalescing(layers, hidden, heads, ffn, seed):
    small = tiny(layers=2, hidden=4, heads=2, head_dim=2, ffn=3)
    large = {"layers": 2 * layers, "hidden": 4 * hidden, "heads": 2 * heads, "ffn": 3 * ffn}
    state = random_state(small, seed)
    up = change_of(small, {"decoalesce": {}}, large)
    down = change_of(up.target, {"coalesce": {}}, {field: getattr(small, field) for field in large})
    assert_same(grown(down, grown(up, state)), state)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 5), st.integers(0, 2), st.integers(0, 5), st.integers(0, 2), st.sampled_from(["post", "pre"]),
    st.integers(0, 99),
)  # fmt: skip
def test_masked_growth_preserves_the_function(hidden, heads, ffn, layers, norm, seed):
    """Any ratio of any of the four."""
    source = tiny(hidden=6, heads=2, head_dim=3, ffn=4, norm=norm)
    wanted = {"hidden": 6 + hidden, "heads": 2 + heads, "ffn": 4 + ffn, "layers": 2 + layers}
    if hidden + heads + ffn + layers:
        assert_function_preserved(source, {"mask_growth": {}}, wanted, seed)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 5), st.floats(0, 2), st.integers(0, 99))
def test_noise_of_any_strength_preserves_the_function(hidden, heads, ffn, noise, seed):
    source = tiny(hidden=6, heads=2, head_dim=3, ffn=4)
    wanted = {"hidden": 6 * hidden, "heads": 2 + heads, "ffn": 4 + ffn}
    if hidden > 1 or heads or ffn:
        assert_function_preserved(source, {"widen": {"how": "fpi", "noise": noise, "seed": seed}}, wanted, seed)


@settings(max_examples=10, deadline=None)
@given(st.data(), st.sampled_from(["post", "pre"]))
def test_pruning_is_zeroing(data, norm):
    """Of any heads and neurons: the smaller model is the dense one without their outputs."""
    source = tiny(norm=norm)

    def some(size: int) -> tuple[int, ...]:
        return tuple(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))))

    kept = {"attention": [some(3), some(3)], "feedforward": [some(10), some(10)]}
    grow = {"prune_heads": {"keep": kept["attention"]}, "prune_neurons": {"keep": kept["feedforward"]}}
    state = random_state(source)
    change = change_of(source, grow, {})
    after, _ = loss_and_gradients(change.target, grown(change, state))
    for branch, layers in kept.items():
        for layer, units in enumerate(layers):
            name = f"blocks.{layer}.{branch}.output.weight"
            weight = torch.zeros_like(state[name].weight)
            weight[:, list(units)] = state[name].weight[:, list(units)]
            state[name] = Record(weight, *state[name].tensors()[1:])
    assert after == pytest.approx(loss_and_gradients(source, state)[0], rel=1e-10)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(2, 8), st.integers(2, 8), st.integers(0, 99))
def test_densified_gradients_are_those_the_factors_saw(rank, outputs, inputs, seed):
    """The least-squares estimate meets G_up = G down^T and G_down = up^T G wherever some G does."""
    rank = min(rank, outputs - 1, inputs - 1)
    source = tiny(hidden=inputs, heads=1, ffn=outputs, low_rank={"feedforward.input": rank})
    state = random_state(source, seed)
    up, down = (f"blocks.0.feedforward.input.{kind}" for kind in ("up", "down"))
    u, d = state[up].weight, state[down].weight
    full = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    state[up] = Record(u, full @ d.T, torch.ones_like(u), 5)
    state[down] = Record(d, u.T @ full, torch.ones_like(d), 5)
    found = grown(change_of(source, {"densify": {"moments": "copy"}}, {}), state)["blocks.0.feedforward.input.weight"]
    torch.testing.assert_close(found.weight, u @ d)
    torch.testing.assert_close(found.exp_avg @ d.T, full @ d.T, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(u.T @ found.exp_avg, u.T @ full, rtol=1e-6, atol=1e-8)
    assert (found.exp_avg_sq >= 0).all()
