"""A run that was stopped and went on is the run that was not: bit for bit, or to rounding under another layout."""

import shutil
from pathlib import Path
from unittest.mock import patch

import pytest

from pretrain.checkpoint import find_checkpoint, read_index
from pretrain.data import TrainingData
from pretrain.recipe import Recipe
from pretrain.training.train import train
from tests.support.tiny import losses, metrics, same_bits, tiny_recipe, train_until
from tests.support.workers import pool

PLAIN = [{"name": "tied", "steps": 12}]
LARGE = {"global": 32, "micro": 8}
"""Rows. An epoch is of about 7 steps."""
NO_DROPOUT = dict(
    layers=2, hidden=32, heads=4, ffn=64, sharing=1, max_positions=32, hidden_dropout=0, attention_dropout=0
)


@pytest.mark.parametrize(
    ("zero", "layout"),
    [(0, {}), (1, {}), (2, {}), (3, {}), (1, {"tensor_parallel": 2, "sequence_parallel": True})],
)
def test_two_parts_are_the_whole(corpus, tmp_path, zero, layout):
    """Dropout on, two micro-batches a step or four, the stop in the second epoch."""
    settings = {"layout": layout, "deepspeed": f"ds_configs/zero{zero}.json", "seed": zero}
    recipe = tiny_recipe(corpus, stages=PLAIN, batch=LARGE, checkpoint={"every": 6}, **settings)
    pool(2).run(train, recipe, tmp_path / "whole")
    pool(2).run(train_until, recipe, tmp_path / "parts", 9)
    stopped = read_index(find_checkpoint(tmp_path / "parts"))["run"]
    assert stopped["progress"]["step"] == 9
    assert stopped["progress"]["position"]["epoch"] == 1
    pool(2).run(train, recipe, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert same_bits(tmp_path / "parts", tmp_path / "whole")


@pytest.fixture(scope="session")
def grown(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("grown") / "whole"
    pool(2).run(train, tiny_recipe(corpus), folder)
    return folder


@pytest.mark.parametrize("stops", [(9, 10, 11, 20), (19, 21)])
def test_a_stop_before_at_or_after_a_change_of_shape_changes_nothing(corpus, tmp_path, grown, stops):
    """At the boundary itself the change is made again: same correlation, same loss before and after."""
    for step in stops:
        pool(2).run(train_until, tiny_recipe(corpus), tmp_path / "parts", step)
    pool(2).run(train, tiny_recipe(corpus), tmp_path / "parts")
    assert [line["step"] for line in metrics(tmp_path / "parts") if line.get("event") == "growth"] == [10, 20]
    assert metrics(tmp_path / "parts") == metrics(grown)
    assert same_bits(tmp_path / "parts", grown)


LAYOUTS = {
    "1 rank, ZeRO 0": (1, 1, 0),
    "tensor parallel 2, ZeRO 3": (2, 2, 3),
    "4 ranks, ZeRO 2": (4, 1, 2),
    "tensor and sequence parallel 2 x data parallel 2, ZeRO 1": (4, 2, 1),
}


def laid_out(corpus: Path, tensor_parallel: int, zero: int) -> Recipe:
    return tiny_recipe(
        corpus,
        model=NO_DROPOUT,
        stages=PLAIN,
        batch=LARGE,
        layout={"tensor_parallel": tensor_parallel, "sequence_parallel": zero == 1},
        deepspeed=f"ds_configs/zero{zero}.json",
    )


def train_and_note_rows(recipe: Recipe, folder: Path) -> list[list[str]]:
    """Trains; gives this rank's masked rows of every step."""
    steps = []
    read = TrainingData.next

    def reading(self: TrainingData, *arguments, **options):
        batches = read(self, *arguments, **options)
        if self._split.name == "train":
            steps.append([str(row.tolist()) for batch in batches for row in batch.ids])
        return batches

    with patch.object(TrainingData, "next", reading):
        train(recipe, folder)
    return steps


@pytest.fixture(scope="session")
def half_way(corpus, tmp_path_factory) -> tuple[Path, list[list[str]], list[float]]:
    """A run stopped at 6 of 12 steps under 2 ranks, ZeRO 1; rows and losses of the same run when it is not stopped."""
    folder = tmp_path_factory.mktemp("layouts")
    recipe = laid_out(corpus, 1, 1)
    rows = pool(2).run(train_and_note_rows, recipe, folder / "whole")
    pool(2).run(train_until, recipe, folder / "half", 6)
    return folder / "half", rows_of_steps(rows, 1), losses(folder / "whole")


def rows_of_steps(ranks: list[list[list[str]]], tensor_parallel: int) -> list[list[str]]:
    """The rows of every global batch, sorted, from what each rank read; tensor-parallel ranks read the same."""
    return [sorted(row for rank in step for row in rank) for step in zip(*ranks[::tensor_parallel], strict=True)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_goes_on_from_any_other(corpus, tmp_path, half_way, layout):
    ranks, tensor_parallel, zero = LAYOUTS[layout]
    stopped, expected_rows, expected_losses = half_way
    folder = tmp_path / "half"
    shutil.copytree(stopped, folder)
    rows = pool(ranks).run(train_and_note_rows, laid_out(corpus, tensor_parallel, zero), folder)
    assert rows_of_steps(rows, tensor_parallel) == expected_rows[6:]
    assert losses(folder) == pytest.approx(expected_losses, rel=1e-6)
