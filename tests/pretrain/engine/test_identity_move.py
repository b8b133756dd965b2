"""An identity move changes nothing: the state read back is bitwise the same, and so are the next 3 losses.

Every layout meets every ZeRO stage, every stage both precisions; sizes that no rank count divides, and CPU offload.
"""

import pytest

from pretrain.engine.exchange import read_state
from pretrain.engine.move import move
from pretrain.engine.zero import destroy
from tests.support.harness import CONFIG, same, settings, start, train, whole_state
from tests.support.workers import pool

OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
ODD = CONFIG.replace(hidden=36, head_dim=9, ffn=74, vocab_size=101)


def identity_move(
    config, tp: int, stage: int, precision: str, accumulation: int, zero: dict
) -> tuple[bool, list, list]:
    chosen = settings(tp, stage, precision, accumulation, **zero)
    engine = start(config, chosen)
    uninterrupted = train(engine, 0, 5)
    destroy(engine)
    del engine

    engine = start(config, chosen)
    train(engine, 0, 2)
    before = whole_state(read_state(engine))
    engine, _ = move(engine, chosen)
    after = whole_state(read_state(engine))
    continued = train(engine, 2, 3)
    destroy(engine)
    return same(before, after), uninterrupted[2:], continued


LAYOUTS = ((1, 1), (2, 1), (4, 2), (2, 2))
"""(ranks, tensor-parallel size). Those with data parallelism are in both precisions at every stage, and that with both
kinds of parallelism in fp32 at each of them, where a wrong bit is not rounded away."""
CASES = [
    pytest.param(ranks, tp, stage, precision, 1, {}, id=f"{ranks}ranks-tp{tp}-zero{stage}-{precision}")
    for number, (ranks, tp) in enumerate(LAYOUTS)
    for stage in (0, 1, 2, 3)
    for precision in ("fp32", "bf16")
    if (number + stage) % 2 == (precision == "bf16") or (ranks == 4 and precision == "fp32")
]
CASES += [pytest.param(2, 1, stage, "bf16", 2, OFFLOAD, id=f"offload-zero{stage}") for stage in (2, 3)]
CASES += [pytest.param(2, 2, 1, "fp32", 2, {}, id="accumulation")]


@pytest.mark.parametrize(("ranks", "tp", "stage", "precision", "accumulation", "zero"), CASES)
def test_identity_move_is_bitwise(ranks, tp, stage, precision, accumulation, zero):
    for same_state, expected, continued in pool(ranks).run(
        identity_move, ODD if tp == 1 else CONFIG, tp, stage, precision, accumulation, zero
    ):
        assert same_state
        assert continued == expected
        assert len(set(expected)) == 3, "the run does not move, so equality shows nothing"
