"""What `plan` says of tokens, epochs and hours before a run begins."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pretrain.cost.savings import stage_flops
from pretrain.recipe import resolve
from pretrain.runs.forecast import Speed, forecast_lines, known_speed
from tests.support.made_up import made_up_recipe

CORPUS = SimpleNamespace(
    path=Path("corpora/mine"),
    weights={"a": 1.0, "b": 0.5},
    manifests=[{"splits": {"train": {"num_tokens": count}}} for count in (5_000, 2_400)],
)


def lines(speed=None, corpus=CORPUS, **changes):
    recipe = made_up_recipe("mine", **(dict(steps=100) | changes))
    run = resolve(recipe, 1000, 1)
    return list(forecast_lines(run, corpus, speed)), run


def test_a_run_of_steps_reads_a_known_number_of_tokens():
    said, _ = lines()
    assert said[0] == "corpus corpora/mine: 6.2 k tokens to train on; the run reads at most 51.2 k, 8.3 epochs"
    assert said[1].startswith("how long it takes is not known here yet: train for some minutes")
    assert len(lines(corpus=None)[0]) == 1


def test_its_hours_follow_from_a_known_speed():
    _, run = lines()
    flops = 100 * stage_flops(run.stages[0])
    said, _ = lines(Speed(flops / 9000, Path("runs/other")))
    assert said[1].startswith("about 2.5 hours of training at the speed of runs/other (")


def test_what_a_run_of_hours_reads_follows_from_a_known_speed():
    hours = dict(steps=None, hours=0.5)
    said, run = lines(**hours)
    assert said[0] == "corpus corpora/mine: 6.2 k tokens to train on"
    assert said[1].startswith("how much it reads is not known here yet")
    flops = stage_flops(run.stages[0])
    (line,) = lines(Speed(flops, Path("runs/mine")), **hours)[0]  # a step a second
    assert "the run reads at most 922 k, 150 epochs at the speed of runs/mine" in line
    assert line.endswith("That is much for this text: watch the validation loss, or set fewer hours")


def test_the_speed_is_that_of_the_run_itself_else_of_the_newest(tmp_path):
    def write(name, num_steps, speed):
        (tmp_path / name).mkdir()
        step = dict(stage="full", loss=1, mlm_loss=1, mlm_accuracy=1, lr=1, grad_norm=1, tokens=1, tokens_per_second=1)
        rows = [{**step, "step": n, "seconds": 2 * n, "flops": 2 * n * speed} for n in range(1, num_steps + 1)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert known_speed(tmp_path, "mine") is None
    write("other", 30, 5.0), write("short", 3, 7.0)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/metrics.jsonl").write_text("no\nno\n")
    assert known_speed(tmp_path, "mine") == Speed(5.0, tmp_path / "other")
    write("mine", 30, 9.0), write("newer", 30, 1.0)
    for age, name in enumerate(("newer", "mine", "other")):
        os.utime(tmp_path / name / "metrics.jsonl", (1000 - age, 1000 - age))
    assert known_speed(tmp_path, "mine") == Speed(pytest.approx(9.0), tmp_path / "mine")
    assert known_speed(tmp_path, "another").run == tmp_path / "newer"
