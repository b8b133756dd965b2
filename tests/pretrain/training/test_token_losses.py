"""The table of losses in whole runs: against numpy, after a stop, over growth, in every layout, in another run."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from model.errors import UserError
from model.variants.token_dropping.losses import TokenLosses
from model.variants.token_dropping.table import LossTable
from pretrain.checkpoint import find_checkpoint, read_index
from pretrain.recipe import resolve
from pretrain.training.train import train
from tests.support.tiny import losses, metrics, same_bits, tiny_recipe, train_until
from tests.support.workers import pool

BETA = 0.8
STAGES = [
    {"name": "plain", "steps": 2},
    {"name": "dropping", "steps": 4, "shape": {"token_dropping": {"beta": BETA}}},
    {"name": "deep", "steps": 3, "grow": "stack", "shape": {"layers": 8}},
    {"name": "all", "steps": 2, "shape": {"token_dropping": None}},
]
FIRST, LAST = 3, 9
"""The steps that drop tokens."""


def recipe(corpus: Path, **changes):
    model = dict(layers=4, hidden=32, heads=4, ffn=64, max_positions=32, hidden_dropout=0, attention_dropout=0)
    data = {"corpus": str(corpus), "pack": True}
    return tiny_recipe(corpus, **{"model": model, "stages": STAGES, "data": data, **changes})


def table_of(folder: Path) -> np.ndarray:
    return LossTable.from_json(read_index(find_checkpoint(folder))["run"]["progress"]["token_losses"]).values.numpy()


def train_and_note_losses(*arguments) -> list[tuple[np.ndarray, np.ndarray]]:
    """Trains; gives what this rank's micro-batches add to the table."""
    added = []
    add = TokenLosses.add

    def noting(self: TokenLosses, ids, values) -> None:
        added.append((ids.numpy(), values.detach().numpy()))
        add(self, ids, values)

    with patch.object(TokenLosses, "add", noting):
        train(*arguments)
    return added


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> tuple[Path, list]:
    """A run on two ranks that is not stopped, and what each of them added to the table."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, pool(2).run(train_and_note_losses, recipe(corpus), folder)


def test_the_table_is_the_moving_average_of_the_losses_on_all_ranks(whole):
    folder, ranks = whole
    table, micro_batches = table_of(folder), 2
    assert [len(added) for added in ranks] == [(LAST - FIRST + 1) * micro_batches] * 2
    expected = np.full(len(table), 10.0)
    for step in range(LAST - FIRST + 1):
        here = slice(step * micro_batches, (step + 1) * micro_batches)
        ids, values = (np.concatenate([part[index] for added in ranks for part in added[here]]) for index in (0, 1))
        for word in np.unique(ids):
            expected[word] = BETA * expected[word] + (1 - BETA) * values[ids == word].astype(np.float64).mean()
    np.testing.assert_allclose(table, expected, rtol=1e-6)
    assert 0 < (table == 10).sum() < len(table)


def test_a_run_that_was_stopped_has_the_same_bits(corpus, tmp_path, whole):
    """Within the stage that drops tokens, and at the growth from 4 layers to 8."""
    for step in (4, 6):
        pool(2).run(train_until, recipe(corpus), tmp_path / "parts", step)
    pool(2).run(train, recipe(corpus), tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(whole[0])
    assert same_bits(tmp_path / "parts", whole[0])
    assert np.array_equal(table_of(tmp_path / "parts"), table_of(whole[0]))


LAYOUTS = {
    "1 rank, ZeRO 0": (1, {"deepspeed": "ds_configs/zero0.json"}),
    "tensor parallel 2, ZeRO 3, recomputed": (
        2,
        {"layout": {"tensor_parallel": 2}, "deepspeed": "ds_configs/zero3.json", "recompute": True},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_same_table(corpus, tmp_path, whole, layout):
    num_ranks, changes = LAYOUTS[layout]
    pool(num_ranks).run(train, recipe(corpus, **changes), tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(losses(whole[0]), rel=1e-5)
    np.testing.assert_allclose(table_of(tmp_path / "run"), table_of(whole[0]), rtol=1e-5)


def test_another_run_goes_on_with_the_table(corpus, tmp_path, whole):
    model = dict(layers=8, hidden=32, heads=4, ffn=64, max_positions=32, token_dropping={"beta": BETA})
    stages = [{"name": "on", "steps": 1}]
    start = {"start": str(whole[0]), "start_with": "state"}
    pool(1).run(train, recipe(corpus, model=model, stages=stages, schedule={"warmup": 0}, **start), tmp_path / "run")
    before, after = table_of(whole[0]), table_of(tmp_path / "run")
    moved = before != after
    assert 5 < moved.sum() < len(before) / 2
    assert np.all(np.abs(after - before)[moved] < (1 - BETA) * 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "clm"}, "which tokens token_dropping keeps follows from the whole row; leave one of them out"),
        (
            {"layout": {"tensor_parallel": 2, "sequence_parallel": True}},
            "layout.sequence_parallel gives each rank equally many tokens of a row",
        ),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(corpus, changes, message):
    stages = [{"name": "dropping", "steps": 4, "shape": {"token_dropping": {}}, **changes}]
    with pytest.raises(UserError, match=message) as caught:
        resolve(recipe(corpus, stages=stages), 131, 2)
    assert "\n" not in str(caught.value)
