"""What the papers say of each operator, on small numbers: the reference cases, and those that a dropped factor
breaks."""

import pytest
import torch

from growth.operators import OPERATORS, default_operators, make_operator, shapes
from growth.operators.prune import global_quota
from growth.state import Record
from model.bert import BertForPreTraining
from model.errors import UserError
from model.parameters import parameter_table
from tests.growth.proving import (
    State,
    change_of,
    grown,
    loss_and_gradients,
    random_state,
    tiny,
)
from tests.model.running import random_batch

POST, PRE = tiny(), tiny(norm="pre")
LOW_RANK = tiny(low_rank={"feedforward.input": 3})


def same_block(left: State, left_block: int, right: State, right_block: int) -> bool:
    """Whether two blocks are equal bitwise, moments and steps included."""
    mine, other = f"blocks.{left_block}.", f"blocks.{right_block}."
    names = [name.removeprefix(mine) for name in left if name.startswith(mine)]
    return bool(names) and all(same_record(left[mine + name], right[other + name]) for name in names)


def same_record(left: Record, right: Record) -> bool:
    tensors = zip(left.tensors(), right.tensors(), strict=True)
    return left.step == right.step and all(torch.equal(a, b) for a, b in tensors)


def loss(config, state: State) -> float:
    return loss_and_gradients(config, state)[0]


# ---- depth ----


@pytest.mark.parametrize(
    ("operator", "layers", "sources"),
    [
        ("stack", 6, [0, 1, 2, 0, 1, 2]),
        ("stack", 5, [0, 1, 2, 0, 1]),
        ("interleave", 6, [0, 0, 1, 1, 2, 2]),
        ("interleave", 4, [0, 0, 1, 2]),
        ("append_top", 5, [0, 1, 2, 1, 2]),
        ("append_top", 6, [0, 1, 2, 0, 1, 2]),
        ("append_top", 4, [0, 1, 2, 2]),
        ("decoalesce", 6, [0, 0, 1, 1, 2, 2]),
    ],
)
def test_depth_copies_layers(operator, layers, sources):
    """CompoundGrow and StackBERT: layer i == layer i mod L; MSLT: new layer j == layer 2 L0 - L1 + j. The loss
    changes."""
    source = tiny(layers=3)
    state = random_state(source)
    change = change_of(source, {operator: {}}, {"layers": layers})
    after = grown(change, state)
    assert [next(old for old in range(3) if same_block(after, new, state, old)) for new in range(layers)] == sources
    assert abs(loss(change.target, after) - loss(source, state)) > 1e-6
    outside = [name for name in state if not name.startswith("blocks.")]
    assert all(torch.equal(after[name].exp_avg_sq, state[name].exp_avg_sq) for name in outside)


def test_depth_follows_ragged_and_shared_layers():
    source = tiny(layers=3, heads=(1, 2, 3), sharing=None)
    assert shapes(source, [make_operator("stack", {})], {"layers": 5})[-1].heads == (1, 2, 3, 1, 2)
    assert shapes(source, [make_operator("append_top", {})], {"layers": 5})[-1].heads == (1, 2, 3, 2, 3)
    shared = tiny(layers=4, sharing=2)
    assert shapes(shared, [make_operator("stack", {})], {"layers": 8})[-1].sharing == 2
    assert shapes(shared, [make_operator("interleave", {})], {"layers": 8})[-1].sharing == (0, 0, 1, 1, 0, 0, 1, 1)


def test_doubled_layers_start_over_where_asked():
    """StackBERT's default is a reset: step, m and v are 0 after doubling; its other mode copies the slots."""
    state = random_state(POST)
    after = grown(change_of(POST, {"stack": {"moments": "reset"}}, {}), state)
    assert all(r.step == 0 and not r.exp_avg.any() and not r.exp_avg_sq.any() for r in after.values())


def test_identity_layers_put_out_zero_only_in_what_is_added():
    state = random_state(PRE)
    after = grown(change_of(PRE, {"identity_layers": {}}, {}), state)
    for added, old in ((1, 0), (3, 1)):
        assert same_block(after, added - 1, state, old)
        for kind in ("attention.output.weight", "attention.output.bias", "feedforward.output.weight"):
            assert not after[f"blocks.{added}.{kind}"].weight.any()
        assert after[f"blocks.{added}.feedforward.input.weight"].weight.any()
        kind = "attention.output.weight"
        for moment, neighbour in zip(
            after[f"blocks.{added}.{kind}"].tensors()[1:], state[f"blocks.{old}.{kind}"].tensors()[1:], strict=True
        ):
            assert torch.equal(moment, neighbour)


# ---- width ----


def train_sgd(config, state: State, steps: int, lr: float = 0.05) -> State:
    for _ in range(steps):
        _, gradients = loss_and_gradients(config, state)
        state = {name: Record(r.weight - lr * gradients[name], *r.tensors()[1:]) for name, r in state.items()}
    return state


def test_tiled_ffn():
    """CompoundGrow: L((2hf + f)(1 - 1/k)) more parameters, blocks of W2 sum to the old W2, and the halves stay equal:
    no dropout of BERT's is between them."""
    state = random_state(POST)
    change = change_of(POST, {"tile_ffn": {}}, {})
    after = grown(change, state)
    added = sum(r.weight.numel() for r in after.values()) - sum(r.weight.numel() for r in state.values())
    hidden, ffn = POST.hidden, 2 * POST.ffn
    assert added == POST.layers * (2 * hidden * ffn + ffn) // 2
    left, right = after["blocks.0.feedforward.output.weight"].weight.chunk(2, dim=1)
    torch.testing.assert_close(left + right, state["blocks.0.feedforward.output.weight"].weight)
    for dropout in (0.0, 0.3):
        later = train_sgd(change.target.replace(hidden_dropout=dropout, attention_dropout=dropout), after, 3)
        left, right = later["blocks.0.feedforward.input.weight"].weight.chunk(2)
        torch.testing.assert_close(left, right, rtol=0, atol=1e-13)
        assert not torch.equal(left, after["blocks.0.feedforward.input.weight"].weight.chunk(2)[0]), "it has trained"


@pytest.mark.parametrize("operator", ["widen", "tile_ffn"])
def test_noise_breaks_the_symmetry(operator):
    change = change_of(POST, {operator: {"noise": 1.0}}, {"ffn": 20})
    later = train_sgd(change.target, grown(change, random_state(POST)), 3)
    left, right = later["blocks.0.feedforward.input.weight"].weight.chunk(2)
    assert (left - right).abs().max() > 1e-6


def test_staged_doubling_of_the_moments():
    """Staged training: for doubled width Adam's m, v become m/2, v/4 and are duplicated; a norm before the tied
    decoder, whose own weights are halved, keeps its moments."""
    state = random_state(POST)
    after = grown(change_of(POST, {"widen": {}}, {"hidden": 24, "heads": 6, "ffn": 20}), state)
    scales = {"embeddings.word.weight": 0.5, "blocks.0.attention.norm.weight": 0.5, "mlm.norm.weight": 1.0}
    for name, scale in scales.items():
        old, new = state[name], after[name]
        copies = [1] * (old.weight.dim() - 1) + [2]
        torch.testing.assert_close(new.exp_avg, scale * old.exp_avg.repeat(copies))
        torch.testing.assert_close(new.exp_avg_sq, scale**2 * old.exp_avg_sq.repeat(copies))
    torch.testing.assert_close(after["mlm.norm.weight"].weight, state["mlm.norm.weight"].weight.repeat(2) / 2)


def test_fpi_on_uneven_hidden_is_close_and_by_name_only():
    """bert2BERT: from 32 to 48 the loss differs, but by far less than fresh weights would make it."""
    source = tiny(hidden=32, heads=4, head_dim=8)
    state = random_state(source)
    before = loss(source, state)
    change = change_of(source, {"widen": {"how": "fpi"}}, {"hidden": 48, "heads": 6})
    after = loss(change.target, grown(change, state))
    assert 1e-9 < abs(after - before) < 0.05 * before
    with pytest.raises(UserError, match=r"hidden 32 -> 48 is no whole multiple.*mask_growth.*how: fpi"):
        change_of(source, {"widen": {}}, {"hidden": 48})


def test_aki_takes_new_units_from_the_layer_above():
    state = random_state(POST)
    wanted = {"hidden": 24, "ffn": 20}
    fpi, aki = (grown(change_of(POST, {"widen": {"how": how}}, wanted), state) for how in ("fpi", "aki"))
    name = "feedforward.input.weight"
    assert torch.equal(aki[f"blocks.0.{name}"].weight[:10], fpi[f"blocks.0.{name}"].weight[:10])
    assert torch.equal(aki[f"blocks.0.{name}"].weight[10:], fpi[f"blocks.1.{name}"].weight[10:])
    assert torch.equal(aki[f"blocks.1.{name}"].weight, fpi[f"blocks.1.{name}"].weight), "nothing is above the top"
    change = change_of(POST, {"widen": {"how": "aki"}}, wanted)
    assert abs(loss(change.target, aki) - loss(POST, state)) > 1e-6


def test_lemon_fans_out_unequally():
    state = random_state(POST)
    after = grown(change_of(POST, {"widen": {"how": "lemon"}}, {"ffn": 20}), state)
    left, right = after["blocks.0.feedforward.output.weight"].weight.chunk(2, dim=1)
    torch.testing.assert_close(left + right, state["blocks.0.feedforward.output.weight"].weight)
    assert (left - right).abs().max() > 1e-3


def test_longer_position_tables():
    state = random_state(POST)
    old = state["embeddings.position.weight"].weight
    copied = grown(change_of(POST, {"lengthen": {}}, {"max_positions": 30}), state)["embeddings.position.weight"].weight
    assert torch.equal(copied, old[torch.arange(30) % 12])
    spread = change_of(POST, {"lengthen": {"how": "interpolate"}}, {"max_positions": 23})
    new = grown(spread, state)["embeddings.position.weight"].weight
    torch.testing.assert_close(new[::2], old)
    torch.testing.assert_close(new[1], (old[0] + old[1]) / 2)


# ---- tying ----


def test_sharing_and_unsharing():
    state = random_state(tiny(layers=4))
    shared = change_of(tiny(layers=4), {"share": {"correlation": 0.5}}, {"sharing": 2})
    together = grown(shared, state)
    name = "feedforward.input.weight"
    mean = (state[f"blocks.1.{name}"].weight + state[f"blocks.3.{name}"].weight) / 2
    torch.testing.assert_close(together[f"blocks.1.{name}"].weight, mean)
    squares = (state[f"blocks.1.{name}"].exp_avg_sq + state[f"blocks.3.{name}"].exp_avg_sq) / 2
    torch.testing.assert_close(together[f"blocks.1.{name}"].exp_avg_sq, squares * (1 + 0.5) / 2)
    apart = change_of(shared.target, {"unshare": {"correlation": 0.5}}, {})
    back = grown(apart, together)
    assert all(same_block(back, layer, back, layer % 2) for layer in range(4))
    torch.testing.assert_close(back[f"blocks.3.{name}"].exp_avg_sq, squares)
    torch.testing.assert_close(
        back[f"blocks.3.{name}"].exp_avg, together[f"blocks.1.{name}"].exp_avg * (2 / (1 + 0.5)) ** 0.5
    )


def test_unshared_layers_part_after_one_step():
    """SWE: equal bitwise until tau, the same logits at tau, different after one step."""
    source = tiny(layers=4, sharing=1)
    state = random_state(source)
    change = change_of(source, {"unshare": {"correlation": 0}}, {})
    after = grown(change, state)
    assert loss(change.target, after) == loss(source, state)
    _, tied_gradients = loss_and_gradients(source, state)
    _, gradients = loss_and_gradients(change.target, after)
    for name, gradient in tied_gradients.items():
        if name.startswith("blocks.0."):
            uses = torch.stack([gradients[name.replace("blocks.0.", f"blocks.{layer}.")] for layer in range(4)])
            torch.testing.assert_close(gradient, uses.mean(0), rtol=1e-10, atol=1e-14)
    later = train_sgd(change.target, after, 1)
    assert not any(same_block(later, layer, later, 0) for layer in range(1, 4))


def test_unshare_measures_where_no_correlation_is_given():
    source = tiny(layers=2, sharing=1)
    state = random_state(source)
    asked = []

    def correlation(config, shared, fetch):
        asked.append((config, shared))
        return dict.fromkeys(parameter_table(shared), 0.25)

    after = grown(change_of(source, {"unshare": {}}, {}, state, correlation=correlation), state)
    assert asked == [(source, source)]
    name = "attention.key.weight"
    torch.testing.assert_close(after[f"blocks.1.{name}"].exp_avg_sq, state[f"blocks.0.{name}"].exp_avg_sq * 2 / 1.25)
    with pytest.raises(UserError, match="correlation"):
        change_of(source, {"unshare": {}}, {}, state)


# ---- low rank ----


def test_densify_finds_the_gradient_that_the_factors_saw():
    """Least squares: G_up = G down^T and G_down = up^T G are met exactly by the estimate."""
    source = LOW_RANK
    state = random_state(source)
    generator = torch.Generator().manual_seed(2)
    full = torch.randn(10, 12, generator=generator, dtype=torch.float64)
    up, down = (f"blocks.0.feedforward.input.{kind}" for kind in ("up", "down"))
    u, d = state[up].weight, state[down].weight
    state[up] = Record(u, full @ d.T, torch.full_like(u, 2.0) * d.square().sum(1), 9)
    state[down] = Record(d, u.T @ full, torch.full_like(d, 2.0) * u.square().sum(0).unsqueeze(1), 9)
    name = "blocks.0.feedforward.input.weight"
    after = grown(change_of(source, {"densify": {"moments": "copy"}}, {}), state)[name]
    torch.testing.assert_close(after.weight, u @ d)
    torch.testing.assert_close(after.exp_avg @ d.T, full @ d.T)
    torch.testing.assert_close(u.T @ after.exp_avg, u.T @ full)
    assert after.exp_avg.norm() < full.norm(), "the smallest solution: nothing is made up"
    torch.testing.assert_close(after.exp_avg_sq, torch.full_like(full, 2.0))
    assert after.step == 9
    in_size = grown(change_of(source, {"densify": {}}, {}), state)[name]
    old = torch.cat([(state[factor].exp_avg.square() / state[factor].exp_avg_sq).flatten() for factor in (up, down)])
    factor = (old.mean() / (after.exp_avg.square() / 2).mean()).sqrt()
    torch.testing.assert_close(in_size.exp_avg, after.exp_avg * factor)
    assert torch.equal(in_size.exp_avg_sq, after.exp_avg_sq)
    reset = grown(change_of(source, {"densify": {"moments": "reset"}}, {}), state)
    assert reset[name].step == 0
    assert reset["blocks.0.feedforward.output.weight"].step == 3000, "only what changed starts over"


# ---- variants that become plain ----


@pytest.mark.parametrize(
    ("variant", "operator"), [({"attention": "elu"}, "softmax_attention"), ({"pool_window": 2}, "unpool")]
)
def test_cheap_forms_become_plain_weight_for_weight(variant, operator):
    source = tiny(**variant)
    state = random_state(source)
    change = change_of(source, {operator: {}}, {})
    assert change.target == POST
    after = grown(change, state)
    assert all(same_record(after[name], state[name]) for name in state)
    assert abs(loss(change.target, after) - loss(source, state)) > 1e-6


def test_light_layers_get_the_query_and_key_of_the_map_they_used():
    source = tiny(layers=3, light_layers=(1, 2))
    state = random_state(source)
    after = grown(change_of(source, {"own_maps": {}}, {}), state)
    for layer in (1, 2):
        for name in ("query.weight", "key.bias"):
            assert same_record(after[f"blocks.{layer}.attention.{name}"], state[f"blocks.0.attention.{name}"])


def test_new_units_wait_behind_the_mask():
    """MSG: old units keep weights and moments; new ones have those of unit i mod old, by the paper's own policy zeros.
    With the mask at 1 the plain model gives the same loss."""
    state = random_state(POST)
    wanted = {"hidden": 18, "ffn": 13, "layers": 3}
    name, added = "blocks.0.feedforward.input.weight", "blocks.2.feedforward.input.weight"
    for policy, seeded in (("transform", True), ("copy", False)):
        change = change_of(POST, {"mask_growth": {"moments": policy, "steps": 10}}, wanted)
        after = grown(change, state)
        for new, old in zip(after[name].tensors(), state[name].tensors(), strict=True):
            assert torch.equal(new[:10, :12], old)
        assert after[name].weight[10:].abs().min() > 0
        for moment, old in zip(after[name].tensors()[1:], state[name].tensors()[1:], strict=True):
            assert torch.equal(moment[10:, 12:], old[:3, :6] * seeded)
        assert torch.equal(after[added].exp_avg[:10, :12], state[name].exp_avg)
    assert change.target.masked.layers == (2,)

    model = BertForPreTraining(change.target).double()
    model.load_weights(lambda name: after[name].weight)
    batch = random_batch(change.target, "padded", length=8)
    plain = change_of(change.target, {"unmask": {}}, {})
    for steps, expected in ((0, loss(POST, state)), (10, loss(plain.target, grown(plain, after)))):
        model.begin_step(0, steps)
        assert model(batch, 0.25, 0.5).loss.item() == pytest.approx(expected, rel=1e-10)


# ---- pruning ----


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


# ---- multi-level ----


def test_coalesce_leads_back_from_decoalesce():
    small = tiny(layers=2, hidden=8, heads=2, ffn=6)
    state = random_state(small)
    up = change_of(small, {"decoalesce": {}}, {"layers": 4, "hidden": 24, "heads": 4, "ffn": 12})
    down = change_of(up.target, {"coalesce": {}}, {"layers": 2, "hidden": 8, "heads": 2, "ffn": 6})
    back = grown(down, grown(up, state))
    for name, record in state.items():
        for left, right in zip(back[name].tensors(), record.tensors(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-15)


def test_coalescing_averages_pairs():
    """Units i and i + n (heads 0, 6; 1, 7; ...), neighbouring layers."""
    state = random_state(POST)
    after = grown(change_of(POST, {"coalesce": {}}, {"layers": 1, "ffn": 5}), state)
    biases = (state[f"blocks.{block}.feedforward.input.bias"].weight for block in range(2))
    expected = sum((bias[:5] + bias[5:]) / 2 for bias in biases) / 2
    torch.testing.assert_close(after["blocks.0.feedforward.input.bias"].weight, expected)


def test_interpolation():
    state, saved = random_state(POST), random_state(POST, seed=1)

    def opened(path):
        assert path == "runs/big"
        return POST, saved.__getitem__

    def mixed(alpha):
        options = {"checkpoint": "runs/big", "alpha": alpha}
        return grown(change_of(POST, {"interpolate": options}, {}, saved=opened), state)

    name = "blocks.0.feedforward.input.weight"
    assert torch.equal(mixed(1.0)[name].weight, state[name].weight)
    assert torch.equal(mixed(0.0)[name].weight, saved[name].weight)
    torch.testing.assert_close(mixed(0.25)[name].weight, 0.75 * saved[name].weight + 0.25 * state[name].weight)
    assert torch.equal(mixed(0.25)[name].exp_avg, state[name].exp_avg)


def test_interpolation_breaks_the_symmetry_of_decoalescing():
    small, saved = random_state(POST), random_state(tiny(ffn=20), seed=1)
    grow = {"decoalesce": {}, "interpolate": {"checkpoint": "big", "alpha": 0.5}}
    change = change_of(POST, grow, {"ffn": 20}, saved=lambda path: (tiny(ffn=20), saved.__getitem__))
    left, right = grown(change, small)["blocks.0.feedforward.input.weight"].weight.chunk(2)
    assert not torch.allclose(left, right)


# ---- all operators ----

MISTAKES = [
    (POST, {"stack": {}}, {"layers": 1}, r"layers 2 -> 1 removes layers; use coalesce"),
    (POST, {"stack": {}}, {"layers": 2}, r"layers 2 -> 2 adds none"),
    (POST, {"append_top": {}}, {"layers": 5}, r"layers 2 -> 5.*at most 4, or use stack"),
    (POST, {"identity_layers": {}}, {}, r"norm post.*use stack"),
    (tiny(norm="pre", sharing=1), {"identity_layers": {}}, {}, r"share blocks.*unshare first"),
    (POST, {"widen": {}}, {"hidden": 30}, r"hidden 12 -> 30 is no whole multiple.*mask_growth"),
    (POST, {"widen": {"how": "lemon"}}, {"ffn": 15}, r"ffn 10 -> 15 is no whole multiple.*use copy"),
    (POST, {"widen": {}}, {"heads": 2}, r"heads 3 -> 2 shrinks; use prune_heads"),
    (POST, {"widen": {}}, {"ffn": 5}, r"ffn 10 -> 5 shrinks; use prune_neurons"),
    (POST, {"widen": {}}, {"hidden": 6}, r"hidden 12 -> 6 shrinks; use coalesce"),
    (POST, {"widen": {}}, {}, r"shape asks for no other hidden, heads"),
    (POST, {"widen": {"axis": "ffn"}}, {"heads": 6}, r"shape asks for no other ffn"),
    (POST, {"widen": {"axis": "ffn"}}, {"ffn": 20, "heads": 6}, r"heads 3 -> 6 is not reached by grow; add widen or"),
    (POST, {"tile_ffn": {}}, {"ffn": 25}, r"ffn 10 -> 25 is no whole multiple; use widen"),
    (POST, {"tile_ffn": {}}, {"ffn": 5}, r"ffn 10 -> 5 shrinks; use prune_neurons"),
    (POST, {"lengthen": {}}, {"max_positions": 8}, r"max_positions 12 -> 8"),
    (POST, {"unshare": {}}, {}, r"nothing to unshare"),
    (tiny(layers=4, sharing=2), {"unshare": {}}, {"sharing": 1}, r"puts layers.*use share"),
    (tiny(layers=4, sharing=2), {"share": {}}, {"sharing": 3}, r"sharing 2 -> 3.*use unshare"),
    (POST, {"densify": {}}, {}, r"no layer has low rank"),
    (LOW_RANK, {"densify": {}}, {"low_rank": {"feedforward.input": 2}}, r"3 -> 2 is not full"),
    (POST, {"softmax_attention": {}}, {}, r"softmax already"),
    (POST, {"own_maps": {}}, {}, r"gives no layer a map of its own"),
    (POST, {"fold_slimming": {}}, {}, r"no slimming coefficients"),
    (POST, {"unmask": {}}, {}, r"no units fade in"),
    (POST, {"unpool": {}}, {}, r"pool_window 1 -> 1 pools no less"),
    (tiny(masked={"ffn": 5}), {"stack": {}}, {}, r"still fade in.*put unmask before it"),
    (POST, {"mask_growth": {}}, {"ffn": 5}, r"ffn 10 -> 5 shrinks; use prune_neurons"),
    (POST, {"mask_growth": {}}, {}, r"asks for no more hidden, heads, ffn or layers"),
    (POST, {"prune_heads": {}}, {"heads": 5}, r"heads 3 -> 5.*grows; use widen"),
    (POST, {"prune_heads": {}}, {}, r"say how many heads to keep"),
    (POST, {"prune_heads": {"keep": [[0], [3]]}}, {}, r"keep \[3\] of layer 1: choose some of 0..2"),
    (POST, {"prune_neurons": {"keep": [[0]]}}, {}, r"keep lists 1 layers, the model has 2"),
    (POST, {"prune_neurons": {"keep": [[0], [1]], "quota": "global"}}, {}, r"quota global has nothing to decide"),
    (tiny(sharing=1), {"prune_neurons": {"quota": "global"}}, {"ffn": 5}, r"quota global needs layers with a block"),
    (POST, {"coalesce": {}}, {"ffn": 20}, r"ffn 10 -> 20 grows; use decoalesce"),
    (POST, {"coalesce": {}}, {"ffn": 4}, r"ffn 10 -> 4 is no whole factor"),
    (POST, {"decoalesce": {}}, {"layers": 1}, r"layers 2 -> 1 shrinks; use coalesce"),
    (POST, {"coalesce": {}}, {}, r"say what to change"),
    (POST, {"stack": {}}, {"layers": 4, "activation": "relu"}, r"activation gelu -> relu is not reached.*no operator"),
]


@pytest.mark.parametrize(("source", "grow", "wanted", "message"), MISTAKES)
def test_an_operator_that_cannot_reach_the_shape_says_what_can(source, grow, wanted, message):
    with pytest.raises(UserError, match=message) as caught:
        change_of(source, grow, wanted)
    assert "\n" not in str(caught.value)


def test_interpolation_with_another_shape_is_refused():
    other = tiny(ffn=20)
    with pytest.raises(UserError, match=r"runs/big holds .* ffn 20, the state here is .* ffn 10"):
        change_of(POST, {"interpolate": {"checkpoint": "runs/big"}}, {}, saved=lambda path: (other, None))


def test_operators_compose_like_their_changes_in_turn():
    state = random_state(POST)
    first = change_of(POST, {"tile_ffn": {}}, {"ffn": 20})
    second = change_of(first.target, {"stack": {}}, {"layers": 4})
    at_once = change_of(POST, {"tile_ffn": {}, "stack": {}}, {"ffn": 20, "layers": 4})
    in_turn = grown(second, grown(first, state))
    for name, record in grown(at_once, state).items():
        assert all(torch.equal(a, b) for a, b in zip(record.tensors(), in_turn[name].tensors(), strict=True))


@pytest.mark.parametrize(
    ("source", "wanted", "names"),
    [
        (POST, {"layers": 4}, ["stack"]),
        (POST, {"hidden": 24, "heads": 6, "ffn": 20, "layers": 4}, ["stack", "widen"]),
        (tiny(layers=4, sharing=1), {"sharing": None, "ffn": 20}, ["unshare", "widen"]),
        (tiny(layers=4), {"sharing": 2}, ["share"]),
        (LOW_RANK, {"low_rank": {}, "layers": 4}, ["densify", "stack"]),
        (POST, {"heads": 2, "ffn": (10, 4)}, ["prune_heads", "prune_neurons"]),
        (POST, {"hidden": 6, "layers": 1, "heads": 1, "ffn": 5}, ["coalesce"]),
        (POST, {"max_positions": 40}, ["lengthen"]),
        (POST, {"hidden": 18, "ffn": 20}, ["mask_growth"]),
        (tiny(masked={"ffn": 5}), {"masked": None, "layers": 4}, ["unmask", "stack"]),
        (tiny(attention="elu", light_layers=()), {"attention": "softmax"}, ["softmax_attention"]),
        (tiny(pool_window=2), {"pool_window": 1, "ffn": 20}, ["widen", "unpool"]),
        (tiny(light_layers=(1,)), {"light_layers": ()}, ["own_maps"]),
        (tiny(slimming={}), {"slimming": None, "heads": 2}, ["prune_heads", "fold_slimming"]),
        (POST, {"hidden_dropout": 0.1}, []),
    ],
)
def test_auto_resolves_a_shape_to_operators(source, wanted, names):
    operators = default_operators(source, wanted)
    assert [operator.name for operator in operators] == names
    reached = shapes(source, operators, wanted)[-1]
    assert reached.replace(masked=None) == source.replace(**wanted).replace(masked=None)


def test_every_operator_is_documented():
    for name, operator in OPERATORS.items():
        text = __import__(operator.__module__, fromlist=["x"]).__doc__
        assert "tier" in text.lower(), name
        assert any(year in text for year in ("201", "202")) or "unshare" in text, f"{name} names no paper"
