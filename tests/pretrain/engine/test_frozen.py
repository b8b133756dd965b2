"""Freezing: frozen tensors do not move by a bit, keep moments and steps, and find them again when they are trained."""

import pytest

from growth.operators import shape_change
from growth.state import Record
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move
from pretrain.engine.zero import destroy
from tests.support.harness import CONFIG, same, settings, start, train, whole_state
from tests.support.workers import pool

DEEP = CONFIG.replace(layers=3)


def freeze_and_unfreeze(tp: int, stage: int, precision: str) -> tuple[bool, bool, bool, set[int]]:
    chosen = settings(tp, stage, precision)

    def frozen_part(state: dict[str, Record]) -> dict[str, Record]:
        return {name: r for name, r in state.items() if name.startswith(("embeddings.", "blocks.0.", "blocks.1."))}

    engine = start(DEEP, chosen)
    train(engine, 0, 3)
    before = whole_state(read_state(engine))
    engine, _ = move(engine, chosen, lambda state: shape_change(DEEP, [], {"frozen_layers": 2}))
    frozen = engine.module.config
    train(engine, 3, 6)
    later = whole_state(read_state(engine))
    trained = {name: record for name, record in later.items() if name not in frozen_part(later)}
    moved = all(not same({name: record}, {name: before[name]}) for name, record in trained.items())
    engine, _ = move(engine, chosen, lambda state: shape_change(frozen, [], {"frozen_layers": 0}))
    found = same(later, whole_state(read_state(engine)))
    train(engine, 9, 2)
    last = whole_state(read_state(engine))
    destroy(engine)
    steps = {record.step for record in frozen_part(last).values()}, {last[name].step for name in trained}
    return same(frozen_part(before), frozen_part(later)), moved, found, steps


@pytest.mark.parametrize(
    ("ranks", "tp", "stage", "precision"), [(1, 1, 0, "fp32"), (2, 1, 1, "bf16"), (2, 1, 3, "fp32"), (2, 2, 2, "fp32")]
)
def test_frozen_tensors_stay_and_are_found_again(ranks, tp, stage, precision):
    """Six steps with weight decay on."""
    for unchanged, moved, found, steps in pool(ranks).run(freeze_and_unfreeze, tp, stage, precision):
        assert unchanged
        assert moved, "the rest trains"
        assert found
        assert steps == ({5}, {11}), "every tensor counts its own steps"
