"""Pruning: what goes, what stays exactly, and how a ticket is drawn."""

import pytest
import torch

from growth.operators.prune import global_quota
from growth.state import Record
from tests.support.proving import POST, State, change_of, grown, loss, random_state, tiny


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_pruned_is_dense_with_those_units_zeroed(norm):
    """EarlyBERT: exact smaller shapes, and the same function as the dense model without those outputs."""
    source = tiny(norm=norm)
    state = random_state(source)
    heads, neurons = ((0, 2), (1,)), ((1, 3, 4, 8), (0, 9))
    change = change_of(source, {"prune_heads": {"keep": heads}, "prune_neurons": {"keep": neurons}}, {})
    after = grown(change, state)
    assert (change.target.heads, change.target.ffn) == ((2, 1), (4, 2))
    assert after["blocks.1.attention.query.weight"].weight.shape == (1, 4, 12)
    bias = "blocks.0.feedforward.input.bias"
    assert torch.equal(after[bias].exp_avg, state[bias].exp_avg[list(neurons[0])])
    for block in range(2):
        for name, kept in (("attention", heads[block]), ("feedforward", neurons[block])):
            record = state[f"blocks.{block}.{name}.output.weight"]
            zeroed = torch.zeros_like(record.weight)
            zeroed[:, list(kept)] = record.weight[:, list(kept)]
            state[f"blocks.{block}.{name}.output.weight"] = Record(zeroed, *record.tensors()[1:])
    assert loss(change.target, after) == pytest.approx(loss(source, state), rel=1e-10)


def test_pruning_by_size_keeps_the_largest_units():
    state = random_state(POST)
    for kind in ("feedforward.input.weight", "feedforward.input.bias"):
        state[f"blocks.0.{kind}"].weight[[2, 5]] *= 10
    after = grown(change_of(POST, {"prune_neurons": {}}, {"ffn": (2, 10)}, state), state)
    name = "blocks.0.feedforward.input.weight"
    assert torch.equal(after[name].weight, state[name].weight[[2, 5]])


def test_the_ticket_follows_the_slimming_coefficients():
    """EarlyBERT: the mask is a function of the learned coefficients; others draw another ticket."""
    source = tiny(slimming={})
    state = random_state(source)
    name = "blocks.0.attention.coefficients"
    tickets = []
    for order in ((0.9, 0.1, 0.5), (0.1, 0.5, 0.9)):
        coefficients = torch.tensor(order, dtype=torch.float64)
        state[name] = Record(coefficients, *state[name].tensors()[1:])
        after = grown(change_of(source, {"prune_heads": {}}, {"heads": 2}, state), state)
        tickets.append(after["blocks.0.attention.query.weight"].weight)
        assert torch.equal(after[name].weight, coefficients[coefficients > 0.3])
    assert not torch.equal(*tickets)


def coefficients_of(source, state: State, kind: str) -> list[torch.Tensor]:
    return [state[f"blocks.{block}.{kind}.coefficients"].weight for block in range(source.num_blocks)]


def test_a_global_quota_keeps_the_best_neurons_of_the_whole_model():
    """EarlyBERT: 0.4 of all neurons go, wherever; layers become ragged, but none is left without any."""
    source = tiny(layers=3, slimming={})
    state = random_state(source)
    change = change_of(source, {"prune_neurons": {"quota": "global"}}, {"ffn": 6}, state)
    scores = torch.cat(coefficients_of(source, state, "feedforward"))
    bar = scores.sort(descending=True).values[17]
    kept = [coefficients[coefficients >= bar] for coefficients in coefficients_of(source, state, "feedforward")]
    assert change.target.ffn == tuple(len(each) for each in kept)
    assert sum(change.target.ffn) == 18
    assert len(set(change.target.ffn)) > 1, "choose another seed"
    after = grown(change, state)
    for each, coefficients in zip(kept, coefficients_of(change.target, after, "feedforward"), strict=True):
        assert torch.equal(each, coefficients)


def test_a_global_quota_leaves_no_layer_empty():
    scores = [torch.tensor([0.1, 0.2]), torch.tensor([5.0, 4.0, 3.0]), torch.tensor([2.0, 1.0])]
    assert global_quota(scores, 4) == [1, 2, 1]
    assert global_quota(scores, 3) == [1, 1, 1]


def test_a_random_ticket_does_not_look_at_the_coefficients():
    source = tiny(slimming={})
    grow = {"prune_heads": {"scores": "random"}, "prune_neurons": {"scores": "random", "quota": "global"}}
    targets, tickets = [], []
    for seed in (0, 1):
        state = random_state(source, seed=seed)
        change = change_of(source, grow, {"heads": 2, "ffn": 5}, state)
        targets.append(change.target)
        name = "blocks.0.attention.query.weight"
        heads = grown(change, state)[name].weight
        tickets.append(
            [head for head in range(3) if any(torch.equal(state[name].weight[head], each) for each in heads)]
        )
    assert targets[0] == targets[1]
    assert tickets[0] == tickets[1]
    assert len(tickets[0]) == 2
    other = grow | {"prune_neurons": {"scores": "random", "quota": "global", "seed": 3}}
    assert change_of(source, other, {"heads": 2, "ffn": 5}, state).target != targets[0]


def test_a_ticket_is_trained_from_the_first_weights():
    """EarlyBERT: the learned coefficients choose, the first state gives slices of its weights, all moments are zero."""
    source = tiny(slimming={})
    first, searched = random_state(source), random_state(source, seed=1)
    grow = {"rewind": {}, "prune_heads": {}, "prune_neurons": {"quota": "global"}, "fold_slimming": {"fold": False}}
    wanted = {"heads": 2, "ffn": 6, "slimming": None}
    change = change_of(source, grow, wanted, searched, saved=lambda name: (source, first.__getitem__))
    after = grown(change, searched)
    heads = searched["blocks.1.attention.coefficients"].weight.topk(2).indices.sort().values
    assert torch.equal(
        after["blocks.1.attention.output.weight"].weight, first["blocks.1.attention.output.weight"].weight[:, heads]
    )
    assert torch.equal(after["embeddings.word.weight"].weight, first["embeddings.word.weight"].weight)
    assert not any(name.endswith("coefficients") for name in after)
    assert all(
        record.step == 0 and not record.exp_avg.any() and not record.exp_avg_sq.any() for record in after.values()
    )
