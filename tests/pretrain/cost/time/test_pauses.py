"""How long steps stand still, on many ranks."""

import re
from pathlib import Path

import pytest
import yaml

from pretrain.cost.time.machine import load_machine
from pretrain.cost.time.pauses import checkpoint_seconds, largest_bytes
from pretrain.cost.time.run import run_time
from pretrain.cost.time.tables import standing_still, time_lines
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


def timed(folder: Path, *stages: dict):
    recipe = folder / "stages.yaml"
    values = {"extends": "base", "name": "stages", "steps": 1000, "schedule": {"warmup": 100}, "stages": list(stages)}
    recipe.write_text(yaml.safe_dump(values))
    return run_time(planned(8, str(recipe)), load_machine("h100"))


OPTIMIZERS = [({"name": "lamb", "lr": 1e-3}, True), ({"name": "adamw", "lr": 1e-5}, False)]


@pytest.mark.parametrize(("optimizer", "pauses"), OPTIMIZERS)
def test_another_optimizer_needs_a_new_engine_and_another_rate_does_not(optimizer, pauses, tmp_path):
    time = timed(tmp_path, {"name": "a", "steps": "50%"}, {"name": "b", "steps": "50%", "optimizer": optimizer})
    assert [each.entry.building > 0 for each in time.stages] == [False, pauses]
    assert ("build the engine of b" in standing_still(time)) == pauses


def test_the_pilots_take_their_steps_of_the_run_s_time(tmp_path):
    first = {"name": "a", "steps": "50%", "shape": {"layers": 6}}
    second = {"name": "b", "steps": "50%", "grow": "stack", "shape": {"layers": 12}}
    rule = {"mixing": {"steps": 160, "hop": 120, "window": 10}}
    plain, dated = (timed(tmp_path, first | {"until": until}, second) for until in (None, rule))
    steps = [each.step.seconds for each in dated.stages]
    assert dated.pilots == pytest.approx(120 * steps[0] + 200 * steps[1])
    assert dated.seconds == pytest.approx(plain.seconds + dated.pilots)
    assert dated.from_scratch == plain.from_scratch
    assert "two pilots" in next(time_lines(dated, None)) and "two pilots" not in next(time_lines(plain, None))
