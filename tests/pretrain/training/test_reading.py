"""Rows read ahead, as for a GPU: the same rows in every step, the same bits at the end, no process left behind."""

from pathlib import Path
from unittest.mock import patch

from pretrain.data.ahead import ReadingProcess
from pretrain.data.corpus import CorpusFiles
from pretrain.recipe import Recipe
from pretrain.training import trainer
from pretrain.training.reading import Reader
from pretrain.training.train import train
from tests.support.tiny import metrics, same_bits, tiny_recipe
from tests.support.workers import pool

STAGES = [
    {"name": "tied", "steps": 3},
    {"name": "untied", "steps": 3, "grow": "unshare", "sequence": 24, "batch": {"global": 16}},
]


def read_ahead(recipe: Recipe, folder: Path) -> list[str]:
    """Trains; gives the order in which this rank takes its rows and ends its steps."""
    happened, read, ends, started = [], Reader._read, trainer.Trainer.call, []

    def reading(self: Reader, now: float):
        happened.append("read")
        return read(self, now)

    def calling(self: trainer.Trainer, place: str, *arguments):
        if place == "on_step":
            happened.append("step")
        ends(self, place, *arguments)

    def starting(files: CorpusFiles) -> ReadingProcess:
        started.append(ReadingProcess(files))
        return started[-1]

    with (
        patch.object(trainer, "computes_on_gpu", lambda: True),
        patch.object(trainer, "ReadingProcess", starting),
        patch.object(Reader, "_read", reading),
        patch.object(trainer.Trainer, "call", calling),
    ):
        train(recipe, folder)
    assert [process._process.returncode is None for process in started] == [False]
    return happened


def test_rows_are_read_while_the_step_before_runs(corpus, tmp_path):
    recipe = tiny_recipe(corpus, stages=STAGES, validation={"rows": 8}, checkpoint={"every": 2})
    pool(2).run(train, recipe, tmp_path / "plain")
    stage = ["read", "read", "step", "read", "step", "step"]  # the last step of a stage reads nothing ahead
    assert pool(2).run(read_ahead, recipe, tmp_path / "ahead") == [stage + stage] * 2
    assert metrics(tmp_path / "ahead") == metrics(tmp_path / "plain")
    assert same_bits(tmp_path / "ahead", tmp_path / "plain")
