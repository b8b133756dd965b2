"""The size of updates, measured on fragments, equals that of the whole tensors, under any partition."""

import pytest

from model.parameters import parameter_table
from pretrain.engine.exchange import read_state
from pretrain.engine.zero import destroy, fragments
from pretrain.training.hooks.update_size import update_sizes
from tests.support.harness import CONFIG, settings, start, train, whole_state
from tests.support.workers import pool

FROZEN = CONFIG.replace(frozen_layers=1)


def measured(tp: int, stage: int, precision: str) -> tuple[dict[str, float], dict[str, float]]:
    engine = start(FROZEN, settings(tp, stage, precision))
    train(engine, 0, 2)
    whole_before = whole_state(read_state(engine))
    before = {name: fragment.weight.clone() for name, fragment in fragments(engine).items()}
    train(engine, 2, 1)
    after = {name: fragment.weight for name, fragment in fragments(engine).items()}
    found = update_sizes(before, after, list(parameter_table(FROZEN)))
    whole_after = whole_state(read_state(engine))
    expected = {
        name: (whole_after[name].weight - whole_before[name].weight).square().mean().sqrt().item()
        for name, spec in parameter_table(FROZEN).items()
        if spec.trainable
    }
    destroy(engine)
    return found, expected


@pytest.mark.parametrize(
    ("ranks", "tp", "stage", "precision"), [(1, 1, 0, "fp32"), (2, 1, 1, "bf16"), (2, 2, 3, "fp32"), (2, 1, 3, "fp32")]
)
def test_update_sizes(ranks, tp, stage, precision):
    for found, expected in pool(ranks).run(measured, tp, stage, precision):
        assert found.keys() == expected.keys(), "only what is trained has a size"
        vocabulary = {"embeddings.word.weight", "mlm.bias"}  # padding counts among their elements
        for name in expected.keys() - vocabulary:
            assert found[name] == pytest.approx(expected[name], rel=1e-4), name
            assert found[name] > 0
