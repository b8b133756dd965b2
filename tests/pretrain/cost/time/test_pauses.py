"""How long steps stand still, on many ranks."""

import re

import pytest

from pretrain.cost.time.machine import load_machine
from pretrain.cost.time.pauses import checkpoint_seconds, largest_bytes
from pretrain.cost.time.run import run_time
from pretrain.cost.time.tables import standing_still
from pretrain.recipe import Run, load_recipe, resolve


def planned(num_ranks: int, recipe: str = "lamb-large") -> Run:
    return resolve(load_recipe(recipe, ["precision=bf16", "deepspeed=ds_configs/zero3.json"]), None, num_ranks)


def test_a_checkpoint_or_a_move_of_bert_large_on_1024_ranks_costs_less_than_ten_steps():
    """Under ZeRO 3, and apart from the new engine, which takes as long on one rank."""
    time = run_time(planned(1024), load_machine("h100"))
    assert all(0 < each.pause < 10 * each.step.seconds for each in time.stages)
    moves = [each for each in time.stages if each.entry.seconds]
    assert moves and all(0 < each.entry.moving < 10 * each.step.seconds for each in moves)
    assert re.search(
        r"s for a checkpoint \([\d.]+ steps\), .* steps\) and 70 s to build the engine of long$", standing_still(time)
    )


def test_beyond_some_ranks_all_wait_for_the_one_with_the_word_embedding():
    embedding = 12 * 30528 * 1024
    sizes = [largest_bytes(planned(num_ranks).stages[0], num_ranks) for num_ranks in (8, 64, 256, 1024)]
    assert sizes[0] > 1.2 * embedding
    assert sizes[1:] == [pytest.approx(embedding, rel=0.01)] * 3


def test_a_checkpoint_takes_two_trips_where_others_write():
    machine = load_machine("h100").model_copy(update={"between": None})
    alone, many = (checkpoint_seconds(planned(n).stages[0], n, machine) for n in (1, 64))
    assert alone == pytest.approx(largest_bytes(planned(1).stages[0], 1) / 20e9)
    assert many == pytest.approx(2 * largest_bytes(planned(64).stages[0], 64) * (1 / 20e9 + 1 / 400e9))
