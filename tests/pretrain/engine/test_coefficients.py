"""Coefficients are read whole from every partition, and reported by layer."""

import pytest
import torch

from model.parameters import parameter_table
from pretrain.engine.coefficients import coefficients
from pretrain.engine.zero import fragments
from pretrain.training.hooks.coefficients import Coefficients
from tests.support.harness import CONFIG, settings, start
from tests.support.workers import pool

SLIM = CONFIG.replace(layers=3, sharing=(0, 1, 0), slimming=dict(heads=1e-4, ffn=1e-4))


class Run:
    """What the hook asks a trainer for."""

    def __init__(self, engine):
        self.engine, self.events = engine, []
        self.stage = type("Stage", (), {"config": SLIM})

    def call(self, name, event):
        self.events.append(event)


def reported(tp: int, stage: int) -> tuple[dict, list]:
    """Every coefficient is set to its place in the whole tensor before it is read."""
    engine = start(SLIM, settings(tp, stage))
    table = parameter_table(SLIM)
    for name, fragment in fragments(engine).items():
        if name.endswith(".coefficients"):
            first = engine.module.tp.rank * table[name].numel // tp + fragment.start
            fragment.weight.copy_(torch.arange(first, first + fragment.numel))
    run = Run(engine)
    for step in (49, 50):
        Coefficients().on_step(run, type("Result", (), {"step": step, "stage": "slim"}))
    return {name: tensor.tolist() for name, tensor in coefficients(engine).items()}, run.events


@pytest.mark.parametrize(("tp", "stage"), [(2, 1), (1, 3)])
def test_coefficients_are_whole_and_reported_by_layer(tp, stage):
    for held, events in pool(2).run(reported, tp, stage):
        assert held == {
            f"blocks.{block}.{branch}.coefficients": [float(unit) for unit in range(size)]
            for block in (0, 1)
            for branch, size in (("attention", SLIM.heads), ("feedforward", SLIM.ffn))
        }
        assert [event["step"] for event in events] == [49, 50]
        event = events[-1]
        assert event["values"]["heads"] == [[0.0, 1.0, 2.0, 3.0]] * 3
        quantiles = event["values"]["ffn quantiles"]
        assert (len(quantiles), quantiles[1][0], quantiles[1][-1]) == (3, 0.0, SLIM.ffn - 1)
