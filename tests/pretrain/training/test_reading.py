"""Rows read ahead, as on a GPU: the same rows in every step, the same bits at the end, no batch read for nothing."""

from pathlib import Path
from unittest.mock import patch

from pretrain.data import TrainingData
from pretrain.recipe import Recipe
from pretrain.training import trainer
from pretrain.training.train import train
from tests.support.tiny import metrics, same_bits, tiny_recipe
from tests.support.workers import pool

STAGES = [
    {"name": "tied", "steps": 3},
    {"name": "untied", "steps": 3, "grow": "unshare", "sequence": 24, "batch": {"global": 16}},
]


def read_ahead(recipe: Recipe, folder: Path) -> list[str]:
    """Trains; gives the order in which this rank reads its rows and ends its steps."""
    happened, read, ends = [], TrainingData.next, trainer.Trainer.call

    def reading(self: TrainingData, *arguments, **options):
        if self._split.name == "train":
            happened.append("read")
        return read(self, *arguments, **options)

    def calling(self: trainer.Trainer, place: str, *arguments):
        if place == "on_step":
            happened.append("step")
        ends(self, place, *arguments)

    with (
        patch.object(trainer, "computes_on_gpu", lambda: True),
        patch.object(TrainingData, "next", reading),
        patch.object(trainer.Trainer, "call", calling),
    ):
        train(recipe, folder)
    return happened


def test_rows_are_read_while_the_step_before_runs(corpus, tmp_path):
    recipe = tiny_recipe(corpus, stages=STAGES, validation={"rows": 8}, checkpoint={"every": 2})
    pool(2).run(train, recipe, tmp_path / "plain")
    stage = ["read", "read", "step", "read", "step", "step"]  # the last step of a stage reads nothing ahead
    assert pool(2).run(read_ahead, recipe, tmp_path / "ahead") == [stage + stage] * 2
    assert metrics(tmp_path / "ahead") == metrics(tmp_path / "plain")
    assert same_bits(tmp_path / "ahead", tmp_path / "plain")
