"""After a move the state read back equals the change applied to the unsharded state, bitwise, in another layout too."""

from dataclasses import replace
from itertools import product
from unittest.mock import patch

import deepspeed
import pytest
import torch

from growth.change import ShapeChange
from growth.operators import OPERATORS, make_operator, shape_change
from growth.operators.base import Inputs
from growth.state import Fetch, Record, fresh_state
from model.parameters import parameter_table
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move
from pretrain.engine.norm import gradient_norm_before_step
from pretrain.engine.spread import fetch_from
from pretrain.engine.zero import basic_optimizer, destroy
from tests.support.harness import CONFIG, same, settings, start, train, whole_state
from tests.support.workers import pool

SHARED = CONFIG.replace(layers=4, sharing=2)


def grow(config, operators, wanted, old, new) -> tuple[bool, list[float], bool]:
    """Trains 2 steps, moves from layout `old` to `new` (tp, stage, precision), trains 2 more. Whether the state was
    right after the move, the losses, and whether every step has gone on from where the change put it."""
    made = [make_operator(name, options) for name, options in operators]
    engine = start(config, settings(*old))
    train(engine, 0, 2)
    before = whole_state(read_state(engine))

    def change(fetch: Fetch) -> ShapeChange:
        saved = fresh_state(config, seed=9).records
        return shape_change(config, made, wanted, Inputs(fetch, saved=lambda path: (config, saved.__getitem__)))

    unsharded = change(before.__getitem__)
    expected = {name: unsharded.record(name, before.__getitem__) for name in parameter_table(unsharded.target)}
    engine, _ = move(engine, settings(*new), lambda state: change(fetch_from(state)))
    read_back = whole_state(read_state(engine))
    losses = train(engine, 2, 2)
    steps = {name: record.step for name, record in whole_state(read_state(engine)).items()}
    destroy(engine)
    went_on = steps == {name: record.step + 2 for name, record in expected.items()}
    return same(expected, read_back), losses, went_on


UNSHARE = [("unshare", {"correlation": 0.4})]
STACK = [("stack", {})]


@pytest.mark.parametrize(
    ("ranks", "config", "operators", "wanted", "old", "new"),
    [
        pytest.param(1, CONFIG, STACK, {"layers": 4}, (1, 0, "fp32"), (1, 0, "fp32"), id="stack-zero0"),
        pytest.param(2, CONFIG, STACK, {"layers": 3}, (1, 1, "bf16"), (1, 1, "bf16"), id="stack-zero1-bf16"),
        pytest.param(2, SHARED, UNSHARE, {}, (1, 2, "fp32"), (1, 2, "fp32"), id="unshare-zero2"),
        pytest.param(2, SHARED, UNSHARE, {}, (2, 3, "fp32"), (2, 3, "fp32"), id="unshare-tp2-zero3"),
        pytest.param(
            2, SHARED, UNSHARE + STACK, {"layers": 8}, (1, 1, "fp32"), (2, 3, "fp32"), id="tp1-zero1-to-tp2-zero3"
        ),
        pytest.param(4, CONFIG, STACK, {"layers": 4}, (4, 2, "fp32"), (2, 1, "bf16"), id="tp4-zero2-to-tp2-zero1-bf16"),
    ],
)
def test_state_read_back_is_the_change_applied_unsharded(ranks, config, operators, wanted, old, new):
    results = pool(ranks).run(grow, config, operators, wanted, old, new)
    for is_same, losses, went_on in results:
        assert is_same
        assert losses == results[0][1]
        assert went_on


PRE = CONFIG.replace(norm="pre")
WIDER = {"hidden": 64, "heads": 6, "ffn": 80}
HALF = {"hidden": 16, "heads": 2, "ffn": 36, "layers": 1}

CELLS = [  # (config, operator, options, wanted, tensor-parallel, data-parallel, ZeRO stage): together, every layout
    (CONFIG, "interleave", {}, {"layers": 3}, 1, 1, 0),
    (CONFIG, "lengthen", {}, {"max_positions": 24}, 1, 1, 1),
    (CONFIG.replace(layers=4), "share", {"correlation": 0.2}, {"sharing": 2}, 1, 1, 2),
    (CONFIG.replace(light_layers=(1,)), "own_maps", {}, {}, 1, 1, 3),
    (CONFIG, "widen", {"noise": 1.0}, WIDER, 1, 2, 0),
    (CONFIG.replace(low_rank={"feedforward.input": 8}), "densify", {}, {}, 1, 2, 1),
    (CONFIG, "prune_neurons", {}, {"ffn": (40, 72)}, 1, 2, 2),
    (CONFIG, "mask_growth", {}, {"hidden": 40, "heads": 6, "ffn": 80, "layers": 3}, 1, 2, 3),
    (CONFIG, "tile_ffn", {}, {}, 2, 1, 0),
    (PRE, "tile_center", {}, {"layers": 3, "hidden": 40, "heads": 6, "ffn": 80}, 2, 1, 0),
    (CONFIG, "ligo", {"steps": 0}, {"layers": 3, "hidden": 40, "heads": 6, "ffn": 80}, 2, 1, 3),
    (CONFIG, "prune_heads", {}, {"heads": 2}, 2, 1, 1),
    (CONFIG.replace(attention="elu"), "softmax_attention", {}, {}, 2, 1, 2),
    (CONFIG, "widen", {"how": "lemon"}, {"hidden": 64, "heads": 8}, 2, 1, 3),
    (CONFIG, "coalesce", {}, HALF, 2, 2, 0),
    (CONFIG, "decoalesce", {}, {"hidden": 64, "heads": 8, "layers": 4}, 2, 2, 1),
    (CONFIG, "append_top", {}, {"layers": 3}, 2, 2, 2),
    (PRE, "identity_layers", {}, {"layers": 3}, 2, 2, 3),
    (CONFIG.replace(layers=0), "fresh_layers", {}, {"layers": 2}, 2, 2, 3),
    (CONFIG, "widen", {"how": "aki"}, WIDER, 2, 1, 1),
    (CONFIG.replace(slimming={}), "fold_slimming", {}, {}, 2, 1, 1),
    (CONFIG.replace(masked={"ffn": 60}), "unmask", {}, {}, 1, 2, 1),
    (CONFIG.replace(pool_window=2), "unpool", {}, {}, 1, 1, 0),
    (CONFIG, "interpolate", {"checkpoint": "saved", "alpha": 0.25}, {}, 1, 2, 3),
    (CONFIG, "rewind", {"checkpoint": "saved"}, {}, 2, 1, 2),
]


def test_every_operator_has_a_cell():
    assert {cell[1] for cell in CELLS} | {"stack", "unshare"} == OPERATORS.keys()
    assert {cell[4:] for cell in CELLS} >= set(product((1, 2), (1, 2), (0, 1, 2, 3)))


@pytest.mark.parametrize(
    ("config", "name", "options", "wanted", "tp", "dp", "stage"),
    [pytest.param(*cell, id=f"{cell[1]}-tp{cell[4]}-dp{cell[5]}-zero{cell[6]}") for cell in CELLS],
)
def test_every_operator_in_an_engine(config, name, options, wanted, tp, dp, stage):
    layout = (tp, stage, "fp32")
    results = pool(tp * dp).run(grow, config, [(name, options)], wanted, layout, layout)
    for is_same, losses, went_on in results:
        assert is_same
        assert losses == results[0][1]
        assert went_on


def norm_and_rules_after_growth(tp: int, stage: int) -> tuple[float, bool, bool]:
    """The norm that clipping saw in the first step after a growth; whether decay and cut marks are the table's."""
    engine = start(CONFIG, settings(tp, stage))
    train(engine, 0, 2)
    made = [make_operator(name, {}) for name in ("stack", "widen")]
    engine, _ = move(engine, settings(tp, stage), lambda state: shape_change(CONFIG, made, {"layers": 4, **WIDER}))
    table = parameter_table(engine.module.config)
    decays = {
        name: group["weight_decay"] > 0
        for group in basic_optimizer(engine).param_groups
        for name in group["parameter_names"]
    }
    cuts = {name: p.tensor_model_parallel for name, p in engine.module.named_parameters()}
    norms = []
    train(engine, 2, 1, before_step=lambda: norms.append(gradient_norm_before_step(engine)))
    norm = norms[0] if norms[0] is not None else float(engine.get_global_grad_norm())
    destroy(engine)
    return (
        norm,
        decays == {name: spec.decay for name, spec in table.items()},
        cuts == {name: spec.tensor_parallel_axis is not None for name, spec in table.items()},
    )


def test_clipping_decay_and_marks_are_right_on_new_parameters():
    unsharded = pool(1).run(norm_and_rules_after_growth, 1, 0)[0][0]
    assert unsharded > 1, "nothing was clipped"
    for ranks, tp, stage in ((2, 1, 2), (2, 2, 1), (2, 2, 3)):
        for norm, decays, cuts in pool(ranks).run(norm_and_rules_after_growth, tp, stage):
            assert decays and cuts
            assert norm == pytest.approx(unsharded, rel=1e-5)


def tied_parameters(stage: int) -> tuple[int, int]:
    """How many parameters the optimizer holds before and after unsharing."""
    config = CONFIG.replace(layers=4, sharing=1)
    engine = start(config, settings(1, stage))
    train(engine, 0, 1)
    counts = [sum(len(g["parameter_names"]) for g in basic_optimizer(engine).param_groups)]
    made = [make_operator("unshare", {"correlation": 0})]
    engine, _ = move(engine, settings(1, stage), lambda state: shape_change(config, made, {}))
    counts.append(sum(len(g["parameter_names"]) for g in basic_optimizer(engine).param_groups))
    destroy(engine)
    return tuple(counts)


def test_tied_blocks_are_one_parameter_until_unshared():
    tied, apart = (len(parameter_table(CONFIG.replace(layers=4, sharing=sharing))) for sharing in (1, None))
    assert pool(2).run(tied_parameters, 2) == [(tied, apart)] * 2


def elements_reduced(sharing: int | None) -> tuple[int, int]:
    """Elements that go through an all-reduce of gradients in one step; elements of the model."""
    engine = start(CONFIG.replace(layers=4, sharing=sharing), settings(1, 0))
    counts = []

    def counted(tensor, *arguments, **options):
        counts.append(tensor.numel())
        return all_reduce(tensor, *arguments, **options)

    all_reduce = deepspeed.comm.all_reduce
    with patch.object(deepspeed.comm, "all_reduce", counted):
        train(engine, 0, 1)
    num_parameters = sum(parameter.numel() for parameter in engine.module.parameters())
    destroy(engine)
    return sum(counts), num_parameters


def test_a_tied_block_is_reduced_once():
    for sharing in (1, None):
        for reduced, num_parameters in pool(2).run(elements_reduced, sharing):
            assert num_parameters <= reduced < num_parameters + 10, "plus a few scalars"


def trained_after_growth() -> tuple[set[str], list[str], set[str]]:
    """After layers were appended and the old ones frozen: what has gradients, what the optimizer holds, the table."""
    engine = start(CONFIG, settings(1, 1))
    train(engine, 0, 1)
    wanted = {"layers": 4, "frozen_layers": 2}
    made = [make_operator("append_top", {})]
    engine, _ = move(engine, settings(1, 1), lambda state: shape_change(CONFIG, made, wanted))
    with_gradients = {name for name, parameter in engine.module.named_parameters() if parameter.requires_grad}
    held = [name for group in basic_optimizer(engine).param_groups for name in group["parameter_names"]]
    trainable = {name for name, spec in parameter_table(engine.module.config).items() if spec.trainable}
    destroy(engine)
    return with_gradients, held, trainable


def test_freezing_is_right_on_new_parameters():
    for with_gradients, held, trainable in pool(2).run(trained_after_growth):
        assert with_gradients == trainable == set(held)
        assert len(held) == len(trainable), "in exactly one group each"
        assert "blocks.3.attention.query.weight" in trainable and "blocks.1.attention.query.weight" not in trainable


def test_layout_does_not_change_the_training():
    """The same growth under three layouts gives the same losses: exact but for the order of sums in fp32."""
    layouts = [
        (1, (1, 0, "fp32"), (1, 0, "fp32")),
        (2, (1, 2, "fp32"), (2, 1, "fp32")),
        (2, (2, 3, "fp32"), (1, 3, "fp32")),
    ]
    losses = [pool(ranks).run(grow, SHARED, UNSHARE, {}, old, new)[0][1] for ranks, old, new in layouts]
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], abs=2e-6)


def reset_moments() -> tuple[bool, set[int]]:
    engine = start(CONFIG, settings(1, 1))
    train(engine, 0, 3)
    change = shape_change(CONFIG, [make_operator("stack", {"moments": "reset"})], {"layers": 4})
    engine, _ = move(engine, settings(1, 1), lambda state: change)
    train(engine, 3, 2)
    after = whole_state(read_state(engine))
    destroy(engine)
    return all(record.exp_avg_sq.abs().sum() > 0 for record in after.values()), {r.step for r in after.values()}


def test_reset_counts_steps_from_zero():
    for touched, steps in pool(2).run(reset_moments):
        assert touched
        assert steps == {2}


def test_readback_would_notice_a_lost_moment():
    """The comparison itself: one element of one moment off is a difference."""
    record = Record.fresh(torch.ones(3))
    other = replace(record, exp_avg=torch.tensor([0.0, 0.0, 1e-30]))
    assert same({"a": record}, {"a": record})
    assert not same({"a": record}, {"a": other})
    assert not same({"a": record}, {"a": replace(record, step=1)})
