"""`until: mixing`: what two pilots show dates the change of shape, and what they cost counts; also when interrupted."""

import io
import json
from math import exp
from pathlib import Path
from unittest.mock import patch

import pytest
from rich.console import Console

from model.errors import UserError
from pretrain.__main__ import main
from pretrain.checkpoint.progress import Progress
from pretrain.cost.plan import print_plan
from pretrain.cost.savings import compare_costs, stage_flops
from pretrain.recipe import Recipe, Run, resolve
from pretrain.recipe.checks.pilots import check_pilots
from pretrain.recipe.load import recipe_of
from pretrain.recipe.pilots import pilots
from pretrain.runs import journal
from pretrain.runs.folder import RunFolder
from pretrain.runs.forecast import run_flops, steps_of, tokens_read
from pretrain.runs.status import Pilot, read_status
from pretrain.stage_rules.mixing import mixing_time
from pretrain.training.events import Hook
from pretrain.training.mixing import DateOfTheHop, Measured, measure
from pretrain.training.train import train
from tests.support.tiny import losses, metrics, same_bits, tiny_recipe, train_until, write_recipe
from tests.support.workers import pool

STEPS = 20
RULE = {"mixing": {"steps": 8, "hop": 3, "tolerance": 10, "window": 4}}
"""Pilots that meet as soon as they can: four steps after the hop."""


def stages(**first) -> list[dict]:
    zero = {"name": "zero", "steps": STEPS - 1, "shape": {"layers": 0}} | first
    return [zero, {"name": "deep", "steps": STEPS - zero["steps"], "grow": "fresh_layers", "shape": {"layers": 2}}]


def recipe(corpus: Path, **changes) -> Recipe:
    model = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32)
    own = {"model": model, "stages": stages(until=RULE), "seed": 5, "schedule": {"warmup": 2}}
    return tiny_recipe(corpus, **{**own, **changes})


def resolved(corpus: Path, **changes) -> Run:
    return resolve(recipe(corpus, **changes), None, 1)


def test_the_mixing_time_is_the_first_window_after_the_hop_in_which_both_are_close():
    """Losses that differ by exp(-t / 10) are within a tenth of 1 from t = 10 log 10 = 23 on; over a window, later."""
    whole = [1.0] * 200
    grown = [5.0] * 40 + [1 + exp(-step / 10) for step in range(1, 161)]
    assert mixing_time(whole, grown, hop=40, window=1, tolerance=0.1) == 24
    assert mixing_time(whole, grown, hop=40, window=5, tolerance=0.1) == 26
    assert mixing_time(whole, whole, hop=40, window=5, tolerance=0) == 5, "no window begins before the hop"
    assert mixing_time(whole, grown, hop=40, window=5, tolerance=1e-9) is None
    nan = float("nan")
    assert mixing_time(whole, [nan] * 200, hop=40, window=5, tolerance=0.1) is None
    unmasked = [nan if step in (20, 61, 63) else loss for step, loss in enumerate(grown)]
    assert mixing_time(whole, unmasked, hop=40, window=1, tolerance=0.1) == 25, (
        "the 24th step after the hop has no loss to compare"
    )
    assert mixing_time(unmasked, unmasked, hop=40, window=5, tolerance=0) == 5


def test_pilots_begin_as_the_run_does(corpus):
    run = resolved(corpus, schedule={"warmup": "10%", "decay": "50%"})
    whole, grown = (resolve(pilot, None, 1) for pilot in pilots(run).values())
    assert [(stage.end, stage.config) for stage in whole.stages] == [(8, run.stages[1].config)]
    assert [(stage.end, stage.config) for stage in grown.stages] == [
        (3, run.stages[0].config),
        (8, run.stages[1].config),
    ]
    for pilot in (whole, grown):
        assert [pilot.learning_rate(step) for step in range(8)] == [run.learning_rate(step) for step in range(8)]
        assert (pilot.recipe.seed, pilot.recipe.data) == (run.recipe.seed, run.recipe.data)


def test_ranks_have_the_same_pilots(corpus):
    """They get the recipe as JSON in which every key is given."""
    zero, deep = stages(until=RULE)
    own = {"sequence": 16, "batch": {"global": 4}, "masking": {"rate": 0.3}, "optimizer": {"name": "lamb", "lr": 1e-3}}
    given = recipe(corpus, stages=[zero | own, deep | {"masking": {"rate": 0.2}}])
    ours, theirs = (
        {name: pilot.model_dump(by_alias=True) for name, pilot in pilots(resolve(each, None, 1)).items()}
        for each in (given, recipe_of(given.model_dump_json(by_alias=True)))
    )
    assert ours == theirs
    (whole,) = resolve(Recipe.model_validate(theirs["whole"]), None, 1).stages
    assert (whole.sequence, whole.global_batch, whole.mask_rate.first, whole.optimizer.name) == (16, 4, 0.2, "lamb")


def test_a_run_past_its_pilots_trains_none_whatever_its_nodes_do(corpus, tmp_path):
    """A checkpoint that was being written when the run was killed is none to resume from."""

    def train_pilot(pilot: Recipe, folder: Path, hook: Hook) -> None:
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("")
        costs = {"tokens": 1, "flops": 1.0, "seconds": 1.0, "device_seconds": 6.0, "ranks": 3}
        (folder / "summary.json").write_text(json.dumps(costs))

    with patch("pretrain.training.mixing.say_once"):
        unfinished, finished = RunFolder(tmp_path / "unfinished"), RunFolder(tmp_path / "finished")
        (unfinished.checkpoints / "step-00000004.start-1.partial").mkdir(parents=True)
        (finished.checkpoints / "step-00000004").mkdir(parents=True)
        dated = measure(resolved(corpus), unfinished, train_pilot)
        assert dated and dated.measured.device_seconds == 12, "of one rank, as many as there are now"
        assert measure(resolved(corpus, faults={"min_nodes": 1}), finished, train_pilot) is None


def test_a_stage_that_ends_before_keeps_its_length(corpus):
    run, progress = resolved(corpus, stages=stages(steps=10, until=RULE)), Progress()
    dated = DateOfTheHop(Measured(4, num_tokens=7, flops=1.0, train_seconds=1.0, device_seconds=1.0))
    dated.begin(run, progress)
    assert (progress.num_tokens, progress.decisions) == (7, [])
    (event,) = dated.events
    assert event["message"].endswith(
        "4 steps after the hop, and stage zero keeps its length: the run has 10 steps after it"
    )


def test_a_kept_state_that_the_second_stage_reads_is_kept_in_the_pilot_that_grows(corpus):
    first = {"name": "first", "steps": 19, "until": RULE, "keep": "early"}
    second = {"name": "second", "steps": 1, "keep": "late", "grow": {"interpolate": {"checkpoint": "early"}}}
    run = resolved(corpus, stages=[first, second])
    check_pilots(run, None)
    kept = {name: [stage.keep for stage in pilot.stages] for name, pilot in pilots(run).items()}
    assert kept == {"whole": [None], "grown": ["early", None]}


def test_plan_refuses_a_pilot_that_cannot_be_trained(corpus, tmp_path, capsys):
    long = stages(steps=10, until=RULE)
    long[0] |= {"shape": {"layers": 0, "sharing": None}}
    long[1] |= {"schedule": {"rewarm": 8}}
    file = write_recipe(tmp_path / "long.yaml", corpus, schedule={"warmup": 2}, stages=long)
    assert main(["plan", str(file)]) == 2
    assert "until.mixing: pilot grown: stage deep: schedule.rewarm (8 steps) is longer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": stages(until={"mixing": {"steps": 8, "hop": 6, "window": 4}})}, "mixing.hop 6 leaves less than"),
        ({"schedule": {"warmup": 3}}, r"until.mixing.hop 3 is not after the warmup \(3 steps\)"),
        (
            {"hours": 1, "stages": [{"name": "a", "hours": "9%", "until": "mixing"}, {"name": "b", "grow": "stack"}]},
            "stage a: until.mixing is for runs measured in steps, and this one has hours",
        ),
        ({"start": "runs/other"}, "until.mixing does not go with start"),
        ({"faults": {"min_nodes": 1}}, "until.mixing does not go with faults.min_nodes"),
        (
            {"stages": [stages(until=RULE)[0] | {"keep": "a"}, stages()[1] | {"align": {"teacher": "a"}}]},
            "until.mixing does not go with align: a pilot has no teacher",
        ),
        (
            {"stages": [stages(until=RULE)[0], stages()[1] | {"masking": {"rate": 0.3, "end": 0.15}}]},
            "until.mixing does not go with masking.end",
        ),
        (
            {"stages": [stages(until=RULE)[0], stages()[1] | {"schedule": {"lr_scale": 0.5}}]},
            "until.mixing does not go with schedule.lr_scale",
        ),
        ({"stages": [stages()[1] | {"grow": [], "until": RULE}, {"name": "b", "steps": 1}]}, "stage b has no grow"),
        (
            {"stages": [*stages(), {"name": "c", "steps": 1, "grow": "stack", "grow_when": "mixing"}]},
            "stage deep: until.mixing is for the first stage",
        ),
    ],
)
def test_what_pilots_cannot_date_is_refused(corpus, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        pilots(resolved(corpus, **changes))
    assert "\n" not in str(caught.value)


def test_plan_counts_the_pilots(corpus):
    with_pilots, without = resolved(corpus), resolved(corpus, stages=stages())
    zero, deep = map(stage_flops, without.stages)
    assert compare_costs(with_pilots).run - compare_costs(without).run == 3 * zero + 13 * deep
    assert run_flops(with_pilots) - run_flops(without) == 3 * zero + 13 * deep
    read = [tokens_read(run, steps_of(run, None)) for run in (with_pilots, without)]
    assert read[0] - read[1] == 16 * 8 * 32
    out = io.StringIO()
    print_plan(with_pilots, on_cpu=True, console=Console(file=out, width=200))
    assert f"two pilots {3 * zero + 13 * deep:.3g}" in " ".join(out.getvalue().split())
    assert "until as much is left as two pilots of 8 steps need to meet, of which one grows after 3" in out.getvalue()


def test_the_run_grows_that_long_before_its_end_and_an_interrupted_pilot_resumes(corpus, tmp_path):
    pool(1).run(train, recipe(corpus), tmp_path / "whole")
    summaries = {
        path: json.loads((tmp_path / "whole" / path / "summary.json").read_text())
        for path in (".", "pilots/whole", "pilots/grown")
    }
    (event,) = [line for line in metrics(tmp_path / "whole") if line.get("event") == "mixing"]
    assert (event["mixing_steps"], event["end"]) == (4, 16)
    (decision,) = [line for line in metrics(tmp_path / "whole") if line.get("event") == "decision"]
    assert (decision["rule"], decision["stage"]) == ("mixing", "zero") and "at step 16;" in decision["message"]
    assert [entry["event"] for entry in journal.read(tmp_path / "whole")].count("start") == 1
    assert not (tmp_path / "whole" / "pilots" / "whole" / "checked-shards.json").exists(), "the run has checked them"
    assert [stage["steps"] for stage in summaries["."]["stages"]] == [16, 4]

    pool(1).run(train, recipe(corpus, stages=stages(steps=16)), tmp_path / "dated")
    dated = json.loads((tmp_path / "dated" / "summary.json").read_text())
    assert same_bits(tmp_path / "whole", tmp_path / "dated"), "pilots change nothing else"
    assert losses(tmp_path / "whole")[:3] == losses(tmp_path / "whole" / "pilots" / "grown")[:3]
    for cost in ("flops", "tokens"):
        whole, *of_pilots = (summary[cost] for summary in summaries.values())
        assert whole == pytest.approx(dated[cost] + sum(of_pilots), rel=1e-12)

    told = []
    for step in (5, 5, 12):  # in the first pilot, in the second, in the run
        pool(1).run(train_until, recipe(corpus), tmp_path / "parts", step)
        told.append(read_status(tmp_path / "parts"))
    assert [(each.state, each.pilot) for each in told] == [
        ("preempted", Pilot("whole", 5, 8)),
        ("preempted", Pilot("grown", 5, 8)),
        ("preempted", None),
    ]
    assert str(told[0].cause).startswith("until.mixing: pilot whole: ") and len(told[2].restarts) == 2
    pool(1).run(train, recipe(corpus), tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert same_bits(tmp_path / "parts", tmp_path / "whole")
