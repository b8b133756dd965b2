"""Muon in DeepSpeed's engine, in every cell of ZeRO and layouts, against whole matrices in numpy.

In fp32, where Newton-Schulz makes rounding in small singular directions up to 480 times larger. So one step is compared
from equal states, on the gradient that it got; and 10 steps are to end no further from a run in float64 than twice
what the run on one rank does.
"""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from growth.state import fresh_state
from model.bert import BertForPreTraining
from model.parameters import parameter_table
from pretrain.engine.exchange import read_state
from pretrain.engine.norm import gradient_norm_before_step
from pretrain.engine.zero import destroy
from tests.support.harness import CONFIG, GLOBAL_ROWS, MASKED_PER_ROW, global_batch, start, train, whole_state
from tests.support.muon_reference import MuonReference, step_error
from tests.support.sharded import OPTIONS, optimizer_settings
from tests.support.workers import pool

STEPS, CLIP = 10, 0.5
LR, DECAY = OPTIONS["muon"]["lr"], OPTIONS["muon"]["weight_decay"]
CELLS = [(ranks, tp, stage) for ranks, tp in ((1, 1), (2, 1), (2, 2), (4, 2)) for stage in (0, 1, 2, 3)] + [(4, 4, 1)]


def follow(tp: int, stage: int) -> tuple[float, dict[str, Tensor], list[float]]:
    """The error of the last of 10 steps, the weights after it, and the gradients' norms before clipping."""
    engine = start(CONFIG, optimizer_settings("muon", tp, stage))
    norms: list[float] = []
    original = engine.step

    def step() -> None:
        norm = gradient_norm_before_step(engine)
        original()
        norms.append(float(engine.get_global_grad_norm()) if norm is None else norm)

    engine.step = step
    train(engine, 0, STEPS - 1, LR)
    before = whole_state(read_state(engine))
    train(engine, STEPS - 1, 1, LR)
    after = whole_state(read_state(engine))
    del engine.step
    destroy(engine)
    return step_error(before, after, LR, DECAY), {name: record.weight for name, record in after.items()}, norms


@cache
def found(ranks: int, tp: int, stage: int) -> list[tuple[float, dict[str, Tensor], list[float]]]:
    return pool(ranks).run(follow, tp, stage)


@cache
def reference() -> tuple[dict[str, np.ndarray], list[float]]:
    """10 steps in float64: gradients by autograd on the whole model, the optimizer in numpy."""
    weights = {name: record.weight for name, record in fresh_state(CONFIG, 1).records.items()}
    muon = MuonReference(weights, LR, DECAY, betas=(0.9, 0.98), lr_factor=OPTIONS["muon"]["fallback"]["lr_factor"])
    model, norms = BertForPreTraining(CONFIG).double().eval(), []
    for step in range(STEPS):
        model.load_weights(lambda name: torch.tensor(muon.w[name]))
        model.zero_grad()
        model(global_batch(CONFIG, step), 1 / (GLOBAL_ROWS * MASKED_PER_ROW), 1 / GLOBAL_ROWS).loss.backward()
        gradients = {}
        for name, spec in parameter_table(CONFIG).items():
            gradient = model.get_parameter(name).grad
            assert gradient is not None
            rows = CONFIG.vocab_size if spec.axes[0].name == "vocabulary" else None  # the table is padded
            gradients[name] = gradient[:rows].reshape(spec.shape).numpy()
        norms.append(float(np.sqrt(sum(np.square(gradient).sum() for gradient in gradients.values()))))
        clip = min(1.0, CLIP / (norms[-1] + 1e-6))
        muon.step({name: clip * gradient for name, gradient in gradients.items()})
    return muon.w, norms


def distance(weights: dict[str, Tensor]) -> float:
    expected, _ = reference()
    return float(np.sqrt(sum(np.square(weights[name].numpy() - expected[name]).sum() for name in expected)))


@pytest.mark.parametrize(("ranks", "tp", "stage"), CELLS)
def test_a_cell_follows_whole_matrices(ranks, tp, stage):
    ((_, alone, _),) = found(1, 1, 0)
    for error, weights, norms in found(ranks, tp, stage):
        assert error < 1e-4
        assert distance(weights) < 2 * distance(alone)
        assert norms == pytest.approx(reference()[1], rel=1e-4), "what is clipped is the gradient"


def follow_at_zero_1_and_2() -> list[dict[str, Tensor]]:
    """One right after the other: what else a process has set, such as its number of threads, changes last digits."""
    return [follow(1, stage)[1] for stage in (1, 2)]


def test_a_layout_gives_the_same_bits_at_zero_1_and_2():
    """The others add up in another order: ZeRO 0 sums the clipping norm over parameters, ZeRO 3 has another linear."""
    for one, two in pool(2).run(follow_at_zero_1_and_2):
        assert all(torch.equal(one[name], two[name]) for name in one)
