"""After a move the state read back equals the change applied to the unsharded state, bitwise, in another layout too."""

from dataclasses import replace

import pytest
import torch

from growth.operators import make_operator, shape_change
from growth.state import Record
from model.parameters import parameter_table
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move
from pretrain.engine.zero import destroy
from tests.engine.harness import CONFIG, same, settings, start, train, whole_state
from tests.workers import pool

SHARED = CONFIG.replace(layers=4, sharing=2)


def grow(config, operators, wanted, old, new) -> tuple[bool, list[float], dict[str, int]]:
    """Trains 4 steps, moves from layout `old` to `new` (tp, stage, precision), trains 4 more."""
    made = [make_operator(name, options) for name, options in operators]
    engine = start(config, settings(*old))
    train(engine, 0, 4)
    before = whole_state(read_state(engine))
    change = shape_change(config, made, wanted)
    expected = {name: change.record(name, before.__getitem__) for name in parameter_table(change.target)}
    engine, _ = move(engine, settings(*new), lambda fetch: change)
    read_back = whole_state(read_state(engine))
    losses = train(engine, 4, 4)
    steps = {name: record.step for name, record in whole_state(read_state(engine)).items()}
    destroy(engine)
    return same(expected, read_back), losses, steps


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
    for is_same, losses, steps in results:
        assert is_same
        assert losses == results[0][1]
        assert set(steps.values()) == {8}, "steps are carried and go on"


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
    engine, _ = move(engine, settings(1, 1), lambda fetch: change)
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
