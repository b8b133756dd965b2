"""The moments of LANS and NVLAMB after a change of shape: their own rule, by the commuting diagram, in float64."""

import math
from dataclasses import replace

import pytest
import torch

from growth.moments import of_unit_gradients, of_unit_model_gradients
from growth.state import Record
from pretrain.optim.lamb.step import Lamb
from pretrain.optim.lans.step import Lans
from tests.support.proving import change_of, grown, loss_and_gradients, random_state, tiny, worst

BETAS = (0.9, 0.98)
RULES = {
    "lans": (of_unit_gradients, lambda parameters: Lans(parameters, lr=0.0, betas=BETAS)),
    "nvlamb": (
        of_unit_model_gradients,
        lambda parameters: Lamb(parameters, lr=0.0, betas=BETAS, prenormalize="always"),
    ),
}
EVEN = {
    "hidden x2": (tiny(), {"widen": {"noise": 0}}, {"hidden": 24}),
    "hidden x3, pre-LN": (tiny(norm="pre"), {"widen": {"noise": 0}}, {"hidden": 36}),
    "ffn x3": (tiny(), {"tile_ffn": {}}, {"ffn": 30}),
    "all x2": (tiny(), {"widen": {"noise": 0}}, {"hidden": 24, "heads": 6, "ffn": 20}),
    "shared blocks": (tiny(layers=4, sharing=2), {"widen": {"noise": 0}}, {"hidden": 24, "ffn": 20}),
}
UNEVEN = {"unevenly": (tiny(), {"widen": {"noise": 0}}, {"hidden": 36, "heads": 5, "ffn": 17})}


def cases(chosen):
    return [pytest.param(*case, id=name) for name, case in chosen.items()]


def one_step(name, state, gradients):
    """The state after a step of the real optimizer with learning rate 0: only moments and steps move."""
    parameters = {key: torch.nn.Parameter(record.weight.clone()) for key, record in state.items()}
    optimizer = RULES[name][1](parameters.values())
    for key, record in state.items():
        parameter = parameters[key]
        optimizer.state[parameter] = {
            "step": torch.tensor(float(record.step)),
            "exp_avg": record.exp_avg.clone(),
            "exp_avg_sq": record.exp_avg_sq.clone(),
        }
        parameter.grad = gradients[key].clone()
    optimizer.step()
    moments = {key: optimizer.state[parameter] for key, parameter in parameters.items()}
    return {
        key: Record(state[key].weight, found["exp_avg"], found["exp_avg_sq"], int(found["step"]))
        for key, found in moments.items()
    }


def moments(state, kind):
    """Without key biases: softmax takes no notice of them, so their gradient is rounding, which LANS makes big."""
    return {key: getattr(record, kind) for key, record in state.items() if not key.endswith("key.bias")}


@pytest.mark.parametrize(("source", "grow", "wanted"), cases(EVEN))
def test_a_lans_step_and_even_growth_commute(source, grow, wanted):
    state = random_state(source)
    change = change_of(source, grow, wanted, state, moments=of_unit_gradients)
    _, gradients = loss_and_gradients(source, state)
    _, new_gradients = loss_and_gradients(change.target, grown(change, state))
    grown_last = grown(change, one_step("lans", state, gradients))
    grown_first = one_step("lans", grown(change, state), new_gradients)
    for kind in ("exp_avg", "exp_avg_sq"):
        assert worst(moments(grown_first, kind), moments(grown_last, kind)) < 1e-9
    assert all(grown_first[key].step == grown_last[key].step for key in grown_first)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("source", "grow", "wanted"), cases(EVEN | UNEVEN))
def test_any_growth_commutes_with_steps_on_steady_gradients(name, source, grow, wanted):
    fresh = {key: Record.fresh(record.weight) for key, record in random_state(source).items()}
    state = fresh
    _, gradients = loss_and_gradients(source, fresh)
    for _ in range(3):
        state = one_step(name, state, gradients)
    change = change_of(source, grow, wanted, state, moments=RULES[name][0])
    expected = grown(change, fresh)
    _, new_gradients = loss_and_gradients(change.target, expected)
    for _ in range(3):
        expected = one_step(name, expected, new_gradients)
    found = grown(change, state)
    for kind in ("exp_avg", "exp_avg_sq"):
        assert worst(moments(found, kind), moments(expected, kind)) < 1e-9


def test_a_doubled_axis_divides_by_the_root_of_two():
    state = random_state(tiny())
    change = change_of(tiny(), {"widen": {"noise": 0}}, {"hidden": 24}, state, moments=of_unit_gradients)
    new = grown(change, state)
    for name, axes in {"embeddings.word.weight": 1, "pooler.weight": 2, "pooler.bias": 1, "sentence.bias": 0}.items():
        ratio = new[name].exp_avg.flatten()[0] / state[name].exp_avg.flatten()[0]
        assert ratio == pytest.approx(1 / math.sqrt(2) ** axes, rel=1e-12)


def test_copied_layers_keep_their_lans_moments_bitwise():
    state = random_state(tiny())
    plain = grown(change_of(tiny(), {"stack": {}}, {"layers": 4}, state), state)
    found = grown(change_of(tiny(), {"stack": {}}, {"layers": 4}, state, moments=of_unit_gradients), state)
    assert all(all(map(torch.equal, plain[name].tensors(), found[name].tensors())) for name in plain)


def test_lans_sees_no_change_of_size_when_blocks_part():
    """The estimate for plain gradients makes both moments larger; gradients of norm one stay so."""
    source = tiny(layers=4, sharing=2)
    state = random_state(source)
    found = grown(change_of(source, {"unshare": {"correlation": 0.3}}, {}, state, moments=of_unit_gradients), state)
    for layer in range(4):
        name = "feedforward.input.weight"
        old, new = state[f"blocks.{layer % 2}.{name}"], found[f"blocks.{layer}.{name}"]
        torch.testing.assert_close(new.exp_avg_sq, old.exp_avg_sq, rtol=1e-12, atol=0)
        torch.testing.assert_close(new.exp_avg, old.exp_avg, rtol=1e-12, atol=0)


def test_an_operator_told_to_copy_or_reset_is_obeyed():
    state = random_state(tiny())
    for policy in ("copy", "reset"):
        grow = {"widen": {"moments": policy}}
        plain = grown(change_of(tiny(), grow, {"hidden": 24}, state), state)
        found = grown(change_of(tiny(), grow, {"hidden": 24}, state, moments=of_unit_gradients), state)
        assert all(all(map(torch.equal, plain[name].tensors(), found[name].tensors())) for name in plain)


@pytest.mark.parametrize("rule", [of_unit_gradients, of_unit_model_gradients])
def test_a_matrix_without_a_second_moment_passes(rule):
    """As in a state that a run with Muon has saved."""
    state = random_state(tiny())
    name = "blocks.0.feedforward.input.weight"
    state[name] = replace(state[name], exp_avg_sq=None)
    found = grown(change_of(tiny(), {"stack": {}}, {"layers": 4}, state, moments=rule), state)
    assert found[name].exp_avg_sq is None
    assert torch.equal(found[name].exp_avg, state[name].exp_avg)
