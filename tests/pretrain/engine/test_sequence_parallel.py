"""Tokens divided over tensor-parallel ranks train as the undivided model does, on every kind of engine."""

from dataclasses import replace

import pytest

from growth.operators import make_operator, shape_change
from pretrain.engine.move import move
from pretrain.engine.zero import destroy
from tests.support.harness import CONFIG, settings, start, train
from tests.support.workers import pool

TIED = CONFIG.replace(layers=3, sharing=1, norm="pre")


def losses(stage: int, precision: str, sequence_parallel: bool, recompute: bool = False) -> list[float]:
    """Three steps with all ranks data parallel, a growth move into the tensor-parallel layout, three more steps."""
    engines = [start(TIED, settings(1, stage, precision))]
    found = train(engines[0], 0, 3)
    chosen = replace(settings(2, stage, precision), sequence_parallel=sequence_parallel, recompute=recompute)
    unshare = make_operator("unshare", {"correlation": 0.5})
    engine, _ = move(engines.pop(), chosen, lambda state: shape_change(TIED, [unshare], {}))
    found += train(engine, 3, 3)
    destroy(engine)
    return found


@pytest.mark.parametrize(
    ("stage", "precision", "recompute", "tolerance"),
    [(0, "fp32", False, 1e-6), (1, "bf16", True, 0.01), (2, "fp32", False, 1e-6), (3, "fp32", False, 1e-6)],
)
def test_the_same_losses(stage, precision, recompute, tolerance):
    whole = pool(2).run(losses, stage, precision, False)
    divided = pool(2).run(losses, stage, precision, True, recompute)
    assert divided[0] == divided[1]
    assert divided[0] == pytest.approx(whole[0], rel=tolerance)
    assert len(set(divided[0])) == len(divided[0]), "nothing is trained"
