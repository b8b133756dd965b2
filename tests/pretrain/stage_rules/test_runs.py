"""Whole runs that end and divide their stages by rules, and the same runs interrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pretrain.checkpoint import find_checkpoint, load_checkpoint, read_index
from pretrain.engine.agreement import from_rank_0
from pretrain.recipe import Recipe
from pretrain.training.train import train
from tests.support.tiny import metrics, same_bits, tiny_recipe, train_until
from tests.support.workers import pool

SHARED = dict(layers=4, hidden=32, heads=4, ffn=64, sharing=1, max_positions=32)
ALWAYS = 1.0
"""A correlation that all pairs are below."""


def agreed_rank() -> int:
    return from_rank_0(dist.get_rank())


def test_all_ranks_go_by_rank_0():
    assert pool(2).run(agreed_rank) == [0, 0]


def adaptive(corpus: Path, first: dict[str, Any], **changes: Any) -> Recipe:
    stages = [{"name": "tied", "steps": 16, **first}, {"name": "untied", "steps": 3, "grow": "unshare"}, {"name": "on"}]
    return tiny_recipe(corpus, model=SHARED, stages=stages, steps=20, validation={"rows": 16}, **changes)


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
    assert stages_of(folder) == {"tied": [1, 9], "untied": [10, 12], "on": [13, 20]}
    checks = events(folder, "neighbour_correlation")
    assert [(check["step"], check["in_a_row"]) for check in checks] == [(3, 1), (6, 2), (9, 3)]
    assert all(list(check["values"]) == ["0-1", "1-2", "2-3"] for check in checks)
    (decision,) = events(folder, "decision")
    assert decision["message"] == "step 9: gradient_correlation ends stage tied, which could have lasted to 16 steps"
    (growth,) = events(folder, "growth")
    assert (growth["step"], growth["loss_before"]) == (9, pytest.approx(growth["loss_after"], abs=1e-6))
    saved = read_index(find_checkpoint(folder))["run"]["progress"]["decisions"]
    assert saved == [{"stage": 0, "end": 9, "shape": {}}]


@pytest.mark.parametrize("stops", [(7,), (9, 15)], ids=str)
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
    assert stages_of(tmp_path / "whole")["tied"] == [1, 4 + 2 * (2 + 1 + 1)], "warmup, window, first point, two checks"
    pool(2).run(train_until, recipe, tmp_path / "parts", 11)
    pool(2).run(train, recipe, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_a_v_cycle_is_one_run(corpus, tmp_path):
    """What the first stage kept is mixed into what comes back, in a run that was stopped in between, too."""
    stages = [
        {"name": "begin", "steps": 4, "keep": "large"},
        {"name": "small", "steps": 4, "grow": "coalesce", "shape": {"layers": 2, "ffn": 32}},
        {
            "name": "large",
            "steps": 4,
            "grow": ["decoalesce", {"interpolate": {"checkpoint": "large", "alpha": 0.0}}],
            "shape": {"layers": 4, "ffn": 64},
        },
    ]
    model = SHARED | {"sharing": None}
    recipe = tiny_recipe(corpus, model=model, stages=stages, validation={"rows": 16}, optimizer={"lr": 1e-12})
    pool(2).run(train_until, recipe, tmp_path / "run", 6)
    pool(2).run(train, recipe, tmp_path / "run")
    folders = (tmp_path / "run" / "checkpoints" / "large", find_checkpoint(tmp_path / "run"))
    kept, mixed = (load_checkpoint(folder)[0] for folder in folders)
    for name, record in kept.records.items():
        assert torch.allclose(record.weight, mixed.records[name].weight, atol=1e-9), name
        assert mixed.steps[name] == 12, "the moments are those of the state that went on"
    coalesced, back = events(tmp_path / "run", "growth")
    assert coalesced["loss_before"] == pytest.approx(back["loss_after"], abs=1e-6)
    assert coalesced["loss_after"] != pytest.approx(coalesced["loss_before"], abs=1e-4)


TICKET = ["rewind", "prune_heads", {"prune_neurons": {"quota": "global"}}, {"fold_slimming": {"fold": False}}]


def test_a_ticket_is_drawn_when_it_settles_and_trained_from_the_first_weights(corpus, tmp_path):
    search = {"name": "search", "steps": 16, "until": {"ticket_distance": {"below": 0.5, "every": 3, "checks": 2}}}
    train_it = {"name": "ticket", "steps": 4, "grow": TICKET, "shape": {"heads": 2, "ffn": 20, "slimming": None}}
    stages = [search, {**train_it, "schedule": {"restart": {"warmup": 2}}}, {"name": "longer"}]
    model = SHARED | {"sharing": None, "slimming": {"heads": 1e-2, "ffn": 1e-2}}
    keep_all = {"every": 4, "keep_last": 9}
    recipe = tiny_recipe(corpus, model=model, stages=stages, steps=22, validation={"rows": 16}, checkpoint=keep_all)
    pool(2).run(train, recipe, tmp_path / "whole")
    folder = tmp_path / "whole"
    assert stages_of(folder) == {"search": [1, 9], "ticket": [10, 13], "longer": [14, 22]}
    assert [check["in_a_row"] for check in events(folder, "check")] == [1, 2], "the first check has none before it"

    ended, settled = events(folder, "decision")
    assert (ended["step"], settled["step"]) == (9, 9)
    widths = settled["ffn"]
    assert sum(widths) == 4 * 20
    assert len(set(widths)) > 1
    first, drawn, last = (
        load_checkpoint(folder / "checkpoints" / name)[0] for name in ("initial", "step-00000009", "step-00000022")
    )
    assert last.config.ffn == tuple(widths)
    scores = [drawn.records[f"blocks.{block}.feedforward.coefficients"].weight for block in range(4)]
    bar = torch.cat(scores).sort(descending=True).values[4 * 20 - 1]
    assert widths == [int((each >= bar).sum()) for each in scores]
    assert first.steps["embeddings.word.weight"] == 0
    assert last.steps["embeddings.word.weight"] == 13, "the optimizer started from scratch"

    for step in (7, 9):
        pool(2).run(train_until, recipe, tmp_path / "parts", step)
    pool(2).run(train, recipe, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(folder)
    assert same_bits(tmp_path / "parts", folder)
