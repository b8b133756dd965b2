"""A step reads its numbers without waiting for its update."""

from pathlib import Path
from unittest.mock import patch

from deepspeed.runtime.engine import DeepSpeedEngine

from pretrain.engine.readback import Readback
from pretrain.recipe import Recipe
from pretrain.training import update
from pretrain.training.train import train
from tests.support.tiny import tiny_recipe
from tests.support.workers import pool


def order_of(recipe: Recipe, folder: Path) -> list[str]:
    happened = []

    class Watched(Readback):
        def __init__(self, tensor) -> None:
            happened.append("copy")
            super().__init__(tensor)

        def tolist(self):
            happened.append("read")
            return super().tolist()

    step = DeepSpeedEngine.step

    def stepping(self: DeepSpeedEngine, *arguments, **options) -> None:
        happened.append("step")
        step(self, *arguments, **options)

    with patch.object(update, "Readback", Watched), patch.object(DeepSpeedEngine, "step", stepping):
        train(recipe, folder)
    return happened


def test_the_losses_are_copied_before_the_update_and_read_after(corpus, tmp_path):
    changes = dict(schedule={"warmup": 1}, validation={"rows": 8}, batch={"global": 4, "micro": 2})
    recipe = tiny_recipe(corpus, stages=[{"name": "only", "steps": 2}], **changes)
    (happened,) = pool(1).run(order_of, recipe, tmp_path)
    assert happened == ["step", "copy", "step", "read"] * 2
