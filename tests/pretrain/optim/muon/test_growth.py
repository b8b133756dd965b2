"""Muon and growth: its step and an even change of width commute exactly, in float64; and what the moments become."""

from dataclasses import replace

import pytest
import torch

from growth.moments import as_kept
from growth.state import MOMENTS, Record
from pretrain.optim.groups import GroupRules
from tests.support.muon_reference import is_matrix, orthogonal
from tests.support.proving import State, change_of, grown, loss_and_gradients, random_state, same_record, tiny, worst

MOMENTUM, LR, DECAY = 0.95, 0.05, 0.1
RULES = GroupRules(orthogonalizes=True)
EVEN = {
    "hidden x2": (tiny(), {"widen": {"noise": 0}}, {"hidden": 24}),
    "hidden x3, pre-LN": (tiny(norm="pre"), {"widen": {"noise": 0}}, {"hidden": 36}),
    "ffn x3": (tiny(), {"tile_ffn": {"noise": 0}}, {"ffn": 30}),
    "heads x2": (tiny(), {"widen": {"noise": 0}}, {"heads": 6}),
    "all x2": (tiny(), {"widen": {"noise": 0}}, {"hidden": 24, "heads": 6, "ffn": 20}),
    "low rank": (tiny(low_rank={"feedforward.input": 3}), {"widen": {"noise": 0}}, {"hidden": 24, "ffn": 20}),
    "shared blocks": (tiny(layers=4, sharing=2), {"widen": {"noise": 0}}, {"hidden": 24, "ffn": 20}),
}


def muon_state(config) -> State:
    """As an engine with Muon holds it."""
    return {
        name: replace(record, exp_avg_sq=None) if is_matrix(name) else record
        for name, record in random_state(config).items()
    }


def one_step(state: State, gradients, scale: str, heads_apart: bool = False) -> State:
    """Of the matrices, by the reference in numpy; the learning rate of the fallback is 0."""
    after = {}
    for name, record in state.items():
        if not is_matrix(name):
            after[name] = record
            continue
        exp_avg = MOMENTUM * record.exp_avg + (1 - MOMENTUM) * gradients[name]
        update = orthogonal(
            name, (MOMENTUM * exp_avg + (1 - MOMENTUM) * gradients[name]).numpy(), scale, heads_apart=heads_apart
        )
        weight = record.weight - LR * (torch.tensor(update) + DECAY * record.weight)
        after[name] = Record(weight, exp_avg, None, record.step + 1)
    return after


def off_by(source, grow, wanted, scale: str, heads_apart: bool = False) -> float:
    """How far step-then-grow is from grow-then-step, over weights and momentum of the matrices."""
    state = muon_state(source)
    change = change_of(source, grow, wanted, state)
    _, gradients = loss_and_gradients(source, state)
    wide = grown(change, state)
    _, new_gradients = loss_and_gradients(change.target, wide)
    grown_last = grown(change, one_step(state, gradients, scale, heads_apart))
    grown_first = one_step(wide, new_gradients, scale, heads_apart)
    assert all(record.exp_avg_sq is None for name, record in grown_last.items() if is_matrix(name))

    def matrices(found: State, kind: str) -> dict[str, torch.Tensor]:
        return {name: getattr(record, kind) for name, record in found.items() if is_matrix(name)}

    return max(worst(matrices(grown_first, kind), matrices(grown_last, kind)) for kind in ("weight", "exp_avg"))


@pytest.mark.parametrize(("source", "grow", "wanted"), [pytest.param(*case, id=name) for name, case in EVEN.items()])
def test_a_step_and_even_widening_commute(source, grow, wanted):
    assert off_by(source, grow, wanted, "spectral") < 1e-9


@pytest.mark.parametrize(
    ("scale", "heads_apart", "wanted"),
    [
        ("moonshot", False, {"hidden": 24}),
        ("jordan", False, {"ffn": 20}),
        ("spectral", True, {"heads": 6}),
    ],
)
def test_other_scales_and_heads_apart_do_not(scale, heads_apart, wanted):
    assert off_by(tiny(), {"widen": {"noise": 0}}, wanted, scale, heads_apart) > 1e-3


@pytest.mark.parametrize(
    ("source", "grow", "wanted"),
    [
        (tiny(layers=4, sharing=2), {"unshare": {"correlation": 0.3}}, {}),
        (tiny(layers=4), {"share": {"correlation": 0.3}}, {"sharing": 2}),
        (tiny(), {"stack": {}}, {"layers": 4}),
        (tiny(layers=4), {"coalesce": {}}, {"layers": 2, "hidden": 6, "ffn": 5}),
        (tiny(low_rank={"feedforward.input": 3}), {"densify": {}}, {}),
        (tiny(), {"mask_growth": {"steps": 5}}, {"hidden": 15, "ffn": 13}),
        (tiny(norm="pre"), {"identity_layers": {}}, {"layers": 4}),
        (tiny(), {"prune_neurons": {}}, {"ffn": 8}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) and value else None,
)
def test_every_kind_of_operator_leaves_matrices_one_moment(source, grow, wanted):
    """The momentum, without any factor that a second moment would need; all else as without Muon."""
    state = muon_state(source)
    found = grown(change_of(source, grow, wanted, state), state)
    whole = random_state(source)
    plain = grown(change_of(source, grow, wanted, whole), whole)
    for name, record in found.items():
        assert record.exp_avg.isfinite().all()
        assert (record.exp_avg_sq is None) == is_matrix(name)
        if not is_matrix(name):
            assert same_record(record, plain[name])
    if "unshare" in grow:
        name = "feedforward.input.weight"
        assert torch.equal(found[f"blocks.2.{name}"].exp_avg, state[f"blocks.0.{name}"].exp_avg)


def test_what_carries_over_from_another_optimizer_and_back():
    """Muon takes over the mean gradient. On the way back there is no second moment, so both moments are reset."""
    state, config = random_state(tiny()), tiny()
    change = change_of(config, {"stack": {}}, {"layers": 4}, state)
    there = as_kept(change, RULES.moments_of)
    to_muon = grown(there, state)
    for name, record in to_muon.items():
        plain = change.record(name, state.__getitem__)
        assert torch.equal(record.exp_avg, plain.exp_avg)
        assert record.step == plain.step > 0
        assert (record.exp_avg_sq is None) == is_matrix(name)
    same_shape = change_of(there.target, {}, {}, to_muon)
    back = grown(as_kept(same_shape, lambda spec: MOMENTS), to_muon)
    for name, record in back.items():
        if is_matrix(name):
            assert record.step == 0
            assert not record.exp_avg.any()
            assert record.exp_avg_sq is not None and not record.exp_avg_sq.any()
        else:
            assert same_record(record, to_muon[name])
