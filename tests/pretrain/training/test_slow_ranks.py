"""A rank that computes more slowly than the others is named, although all take equally long for a step."""

import re
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch.distributed as dist

from pretrain.recipe import Recipe, ResolvedStage
from pretrain.runs.history import History
from pretrain.training.events import Hook, TrainerView
from pretrain.training.hooks import slow_ranks
from pretrain.training.train import train
from tests.support.tiny import tiny_recipe
from tests.support.workers import pool

SECONDS = 0.1


class Slow(Hook):
    """The second rank needs a while more for every layer."""

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        if dist.get_rank() == 1:
            for block in trainer.engine.module.blocks:
                block.attention.register_forward_pre_hook(lambda *_: time.sleep(SECONDS))


def train_comparing_every_step(recipe: Recipe, folder: Path, *hooks: Hook) -> None:
    with patch.object(slow_ranks, "EVERY_SECONDS", 0):
        train(recipe, folder, hooks)


def test_a_slow_rank_is_named_once(corpus, tmp_path):
    """Under ZeRO 3 without prefetching the others wait for it before every block and after the last."""
    zero3 = tmp_path / "zero3.json"
    zero3.write_text('{"zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": 0}}')
    model = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32)
    stages = [{"name": "a", "steps": 10 + 8}]
    recipe = tiny_recipe(corpus, stages=stages, model=model, batch={"global": 8}, deepspeed=str(zero3))
    pool(2).run(train_comparing_every_step, recipe, tmp_path / "run", Slow())
    events = History.read(tmp_path / "run").events("slow_ranks")
    assert events
    assert all(event["ranks"] == [1] for event in events)
    assert events[0]["step"] >= 10 + 2
    assert re.match(r"step \d+: rank 1 on \S+ steadily takes \d+\.\d times the median", events[0]["message"])


@pytest.mark.parametrize(
    ("seconds", "slow"),
    [
        ([1.0, 1.0, 1.0, 1.34], [3]),
        ([1.0, 1.1, 1.2, 1.3], []),
        ([1.0, 1.5], [1]),  # the faster one is the measure
        ([3.0, 1.0, 2.0, 1.0, 1.0], [0, 2]),
        ([0.0, 0.0], []),  # a variant that calls no block
        ([1.0], []),
    ],
)
def test_slow_is_a_third_more_than_the_median(seconds, slow):
    assert slow_ranks.slow_ranks(seconds) == slow
