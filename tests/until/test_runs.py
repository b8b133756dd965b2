"""Whole runs that end and divide their stages by rules, and the same runs interrupted."""

from pathlib import Path
from typing import Any

import pytest

from pretrain.checkpoint import find_checkpoint, read_index
from pretrain.recipe import Recipe
from pretrain.train import train
from tests.little import little_recipe, metrics, same_bits, train_until
from tests.workers import pool

SHARED = dict(layers=4, hidden=32, heads=4, ffn=64, sharing=1, max_positions=32)
ALWAYS = 1.0
"""A correlation that all pairs are below."""


def adaptive(corpus: Path, first: dict[str, Any], **changes: Any) -> Recipe:
    stages = [{"name": "tied", "steps": 16, **first}, {"name": "untied", "steps": 3, "grow": "unshare"}, {"name": "on"}]
    return little_recipe(corpus, model=SHARED, stages=stages, steps=24, validation={"rows": 16}, **changes)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in metrics(folder) if line.get("event") == kind]


def stages_of(folder: Path) -> dict[str, list[int]]:
    """The steps that each stage took."""
    steps: dict[str, list[int]] = {}
    for line in metrics(folder):
        if "event" not in line:
            steps.setdefault(line["stage"], []).append(line["step"])
    return {stage: [taken[0], taken[-1]] for stage, taken in steps.items()}


@pytest.fixture(scope="module")
def unshared(corpus, tmp_path_factory) -> tuple[Recipe, Path]:
    """SWE-A whose pairs are always apart: it ends at the third check. Saved every four steps."""
    recipe = adaptive(corpus, {"until": {"gradient_correlation": {"below": ALWAYS, "every": 3}}})
    folder = tmp_path_factory.mktemp("unshared") / "whole"
    pool(2).run(train, recipe, folder)
    return recipe, folder


def test_layers_unshare_at_the_third_check_and_the_last_stage_gets_the_rest(unshared):
    _, folder = unshared
    assert stages_of(folder) == {"tied": [1, 9], "untied": [10, 12], "on": [13, 24]}
    checks = events(folder, "neighbour_correlation")
    assert [(check["step"], check["in_a_row"]) for check in checks] == [(3, 1), (6, 2), (9, 3)]
    assert all(list(check["values"]) == ["0-1", "1-2", "2-3"] for check in checks)
    (decision,) = events(folder, "decision")
    assert decision["message"] == "step 9: gradient_correlation ends stage tied, which could have lasted to 16 steps"
    (growth,) = events(folder, "growth")
    assert (growth["step"], growth["loss_before"]) == (9, pytest.approx(growth["loss_after"], abs=1e-6))
    saved = read_index(find_checkpoint(folder))["run"]["progress"]["decisions"]
    assert saved == [{"stage": 0, "end": 9, "shape": {}}]


@pytest.mark.parametrize("stops", [(7,), (9,), (10, 20)], ids=str)
def test_a_stop_while_it_counts_or_after_it_decided_changes_nothing(unshared, tmp_path, stops):
    recipe, whole = unshared
    for step in stops:
        pool(2).run(train_until, recipe, tmp_path / "parts", step)
    pool(2).run(train, recipe, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(whole)
    assert same_bits(tmp_path / "parts", whole)


def test_groups_split_while_the_stage_goes_on(corpus, tmp_path):
    """Two of three pairs fall below the bar in these first steps; the rest unshares when the stage is over."""
    recipe = adaptive(corpus, {"split": {"below": 0.93, "every": 3, "checks": 2}})
    pool(2).run(train, recipe, tmp_path / "whole")
    divided = events(tmp_path / "whole", "decision")
    assert divided, "nothing split: choose another bar"
    blocks = [event["shape"] for event in events(tmp_path / "whole", "stage")]
    assert blocks[0].endswith("1 shared block")
    assert stages_of(tmp_path / "whole")["untied"] == [17, 19], "a split takes no steps from the stage"
    lows: dict[str, int] = {}
    for check in events(tmp_path / "whole", "neighbour_correlation"):
        lows = {pair: lows.get(pair, 0) + 1 for pair, value in check["values"].items() if value < 0.93}
        apart = sorted(int(pair[0]) for pair, count in lows.items() if count == 2)
        decision = next((event for event in divided if event["step"] == check["step"]), None)
        assert (decision is not None) == bool(apart)
        if decision:
            groups = decision["sharing"]
            assert all(groups[layer] != groups[layer + 1] for layer in apart)
    pool(2).run(train_until, recipe, tmp_path / "parts", divided[0]["step"] + 1)
    pool(2).run(train, recipe, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert same_bits(tmp_path / "parts", tmp_path / "whole")


def test_a_loss_rule_counts_on_after_a_stop(corpus, tmp_path):
    first = {"until": {"loss_slope": {"below": 10.0, "every": 2, "window": 2, "checks": 2}}}
    recipe = adaptive(corpus, first)
    pool(2).run(train, recipe, tmp_path / "whole")
    assert stages_of(tmp_path / "whole")["tied"] == [1, 4 + 2 * (2 + 1 + 1)], "warm-up, window, first point, two checks"
    pool(2).run(train_until, recipe, tmp_path / "parts", 11)
    pool(2).run(train, recipe, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
