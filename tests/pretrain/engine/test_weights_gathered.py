"""ZeRO 3 gathers weights once for both passes of a micro-batch, the same ones on all ranks."""

from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import patch

import torch

from model.batch import Runs
from pretrain.engine import build
from pretrain.engine.zero import destroy
from pretrain.simulation.messages import Sent, recorded
from pretrain.training.evaluation import evaluate
from tests.support.harness import CONFIG, GLOBAL_ROWS, global_batch, rows, settings, start, train
from tests.support.workers import pool


def gathered(validates: bool, as_deepspeed: bool) -> tuple[int, float]:
    """All-gathers of the fourth step, and its loss."""
    keep = patch.object(build, "keep_weights_for_the_backward_pass", lambda engine: None)
    with keep if as_deepspeed else nullcontext():
        engine = start(CONFIG, settings(1, stage=3))
    if validates:
        evaluate(engine, [global_batch(CONFIG, step) for step in (7, 8)])
    torch.manual_seed(0)
    losses = train(engine, 0, 3)
    with recorded() as sent:
        losses += train(engine, 3, 1)
    destroy(engine)
    return sum(message.kind == "all-gather" for message in sent), losses[-1]


def test_a_validation_before_the_first_step_costs_no_message_later():
    assert pool(2).run(gathered, True, False) == pool(2).run(gathered, False, False)


def test_deepspeed_still_gathers_again_what_it_has_released():
    (number, loss), (without, same_loss) = (pool(2).run(gathered, each, True)[0] for each in (True, False))
    assert number > 3 * without
    assert loss == same_loss


def sent_in_the_first_step(with_runs: bool) -> list[Sent]:
    batch = rows(global_batch(CONFIG, 0), 0, GLOBAL_ROWS // 2)
    if with_runs:
        batch = replace(batch, runs=Runs.of(torch.ones_like(batch.ids)))
    engine = start(CONFIG, settings(1, stage=3))
    with recorded() as sent:
        engine.backward(engine(batch).loss)
        engine.step()
    destroy(engine)
    return sent


def test_rows_with_runs_gather_nothing_else():
    """On a GPU the rows of one rank may have runs and those of another none: each would wait for another weight."""
    assert pool(2).run(sent_in_the_first_step, True) == pool(2).run(sent_in_the_first_step, False)
