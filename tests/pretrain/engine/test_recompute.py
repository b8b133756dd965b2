"""Layers computed again in the backward pass give the same losses, on every kind of engine, and keep less."""

from dataclasses import replace

import pytest
import torch

from model.parallel.tensor import TensorParallel
from pretrain.engine.build import build_model
from pretrain.engine.zero import destroy
from tests.support.harness import CONFIG, global_batch, settings, start, train
from tests.support.workers import pool


def losses(tp: int, stage: int, precision: str, recompute: bool) -> list[float]:
    config = CONFIG.replace(hidden_dropout=0.1, attention_dropout=0.1)
    engine = start(config, replace(settings(tp, stage, precision), recompute=recompute))
    torch.manual_seed(7)
    found = train(engine, 0, 4)
    destroy(engine)
    return found


@pytest.mark.parametrize(("tp", "stage", "precision"), [(1, 1, "bf16"), (1, 3, "fp32"), (2, 0, "fp32"), (2, 1, "bf16")])
def test_the_same_losses(tp, stage, precision):
    plain, again = (pool(2).run(losses, tp, stage, precision, recompute) for recompute in (False, True))
    if (
        stage == 3
    ):  # gathers whole blocks in one message only where none is computed twice: norms add up in another order
        assert plain[0] == pytest.approx(again[0], rel=1e-6)
    else:
        assert plain == again
    assert plain[0][-1] != plain[0][0]


def kept_bytes(recompute: bool) -> int:
    """What autograd keeps of a forward pass, apart from what lies inside the layers that will be computed again."""
    model = build_model(CONFIG.replace(layers=6, sharing=1), TensorParallel(), torch.float32).train()
    model.recompute = recompute
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(global_batch(CONFIG, 0))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_less_is_kept():
    assert kept_bytes(True) < kept_bytes(False) / 3
