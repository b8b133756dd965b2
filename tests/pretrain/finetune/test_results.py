"""Median and spread of the seeds; what diverged is never the best, and never a number in JSON."""

import json

from pretrain.finetune.results import Result, table, write_results
from pretrain.finetune.run import finetune
from pretrain.finetune.tasks import Settings
from tests.support.benchmark_files import write_sst2
from tests.support.run_on_disk import make_corpus, make_run

GOOD = Result(Settings(5e-5, 32, 3), ({"f1": 0.5}, {"f1": 0.75}, {"f1": 0.25}), 1.0, "the dev set")
HALF = Result(Settings(1e-2, 32, 3), ({"f1": 0.9}, None, {"f1": 0.8}), 1.0, "the dev set")
LOST = Result(Settings(1e30, 32, 3), (None, None, None), 1.0, "the dev set")


def test_settings_by_which_a_seed_diverged_are_not_the_best(tmp_path):
    lines = table([LOST, HALF, GOOD]).splitlines()
    assert lines[0] == "lr 1e+30, batch 32, 3 epochs: 3 of 3 seeds diverged"
    assert lines[1] == "lr 0.01, batch 32, 3 epochs: f1 0.85 (0.8 to 0.9), 1 of 3 seeds diverged"
    assert lines[2] == "lr 5e-05, batch 32, 3 epochs: f1 0.5 (0.25 to 0.75)  <- best"
    assert lines[3] == "median (lowest to highest) of 3 seeds on the dev set"
    assert "best" not in table([LOST, HALF]) and "best" not in table([GOOD])
    write_results(tmp_path / "results.json", {"task": "mrpc"}, [LOST, HALF, GOOD])
    written = json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: 1 / 0)
    assert written["task"] == "mrpc" and written["scored_on"] == "the dev set"
    assert [one["settings"]["lr"] for one in written["results"]] == [5e-5, 1e30, 1e-2]
    assert written["results"][1]["seeds"] == [None, None, None]


def test_one_seed_has_no_spread():
    alone = Result(Settings(5e-5, 32, 1), ({"f1": 0.5},), 1.0, "9 examples")
    assert table([alone]) == "lr 5e-05, batch 32, 1 epoch: f1 0.5\nscores of one seed on 9 examples"


def test_outputs_that_are_no_numbers_are_no_score(tmp_path):
    make_run(tmp_path / "run", make_corpus(tmp_path / "corpus"))
    hot, mild = Settings(1e30, 8, 1), Settings(1e-3, 8, 1)
    lost, ended = finetune(tmp_path / "run", "sst2", [hot, mild], [0], write_sst2(tmp_path, 24))
    assert lost.scores == (None,) and lost.num_diverged == 1
    assert ended.num_diverged == 0 and 0 <= ended.score <= 1
