"""The folder of a run: which recipes may resume it."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from model.errors import UserError
from pretrain.checkpoint.tensors import replace_text
from pretrain.recipe import Recipe
from pretrain.runs.folder import RunFolder
from tests.support.tiny import tiny_recipe

CORPUS = Path("corpora/tiny")


def held(**changes: Any) -> dict[str, Any]:
    """The recipe that a run of the tiny recipe leaves in its folder."""
    return dumped(tiny_recipe(CORPUS, **changes))


def dumped(recipe: Recipe) -> dict[str, Any]:
    return json.loads(recipe.model_dump_json(by_alias=True))


def check(folder: Path, values: dict[str, Any], recipe: Recipe) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    begin(folder)
    RunFolder(folder).check(recipe)


def begin(folder: Path) -> None:
    """As a run does that has started."""
    (folder / "metrics.jsonl").write_text("")


def widening(**options: Any) -> Recipe:
    stages = [
        {"name": "narrow", "steps": 5},
        {"name": "wide", "steps": 5, "grow": {"widen": options}, "shape": {"ffn": 128}},
        {"name": "wider", "steps": 5, "grow": {"auto": options}, "shape": {"ffn": 256}},
    ]
    return tiny_recipe(CORPUS, stages=stages)


def noise_of(recipe: Recipe) -> list[float]:
    return [options["noise"] for stage in recipe.stages[1:] for options in stage.grow[0].values()]


@pytest.mark.parametrize(
    ("begun", "ours", "noise"),
    [
        (None, {}, 0.3),
        (None, {"noise": 0.1}, 0.1),
        ({}, {}, 0.0),  # begun when widening made exact copies
        ({"noise": 0.5}, {}, 0.5),
        ({"noise": 0.5}, {"noise": 0.5}, 0.5),
        ({}, {"noise": 0.0}, 0.0),
    ],
)
def test_a_run_keeps_the_noise_that_it_was_begun_with(tmp_path, begun, ours, noise):
    if begun is not None:
        begin(tmp_path)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dumped(widening(**begun))))
    completed = RunFolder(tmp_path).completed(widening(**ours))
    assert noise_of(completed) == [noise, noise]
    RunFolder(tmp_path).check(completed)


def test_another_noise_is_another_recipe(tmp_path):
    begin(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dumped(widening())))
    with pytest.raises(UserError, match=r"holds a run of another recipe \(its stages differ\)"):
        RunFolder(tmp_path).check(RunFolder(tmp_path).completed(widening(noise=0.3)))


def test_a_recipe_from_before_a_key_was_added_resumes(tmp_path):
    """The key is absent there, at the top and further down; today's default is what the run was trained with."""
    values = held()
    del values["recompute"], values["schedule"]["hold"], values["stages"][1]["split"]
    check(tmp_path, values, tiny_recipe(CORPUS))


def test_a_key_that_was_added_and_is_set_is_another_recipe(tmp_path):
    values = held()
    del values["recompute"], values["schedule"]["hold"]
    with pytest.raises(UserError, match=r"holds a run of another recipe \(its recompute, schedule differ\)"):
        check(tmp_path, values, tiny_recipe(CORPUS, recompute=True, schedule={"warmup": 4, "hold": 2}))


def test_another_value_is_another_recipe(tmp_path):
    with pytest.raises(UserError, match=r"holds a run of another recipe \(its seed differ\)"):
        check(tmp_path, held(seed=1), tiny_recipe(CORPUS))


def test_a_key_or_value_that_is_gone_is_named(tmp_path):
    """Such a recipe is no longer valid, and is compared as it was written: only what differs is named."""
    with pytest.raises(UserError, match=r"\(its colour differ\)"):
        check(tmp_path, held() | {"colour": "red"}, tiny_recipe(CORPUS))
    with pytest.raises(UserError, match=r"\(its precision differ\)"):
        check(tmp_path, held() | {"precision": "fp8"}, tiny_recipe(CORPUS))


def test_where_and_how_it_runs_may_change(tmp_path):
    changes = dict(layout={"tensor_parallel": 2}, checkpoint={"every": 1}, attention_kernel="fused")
    other = tiny_recipe(CORPUS, data={"corpus": "elsewhere"}, **changes)
    check(tmp_path, held(), other)


@pytest.mark.parametrize("text", ["", "name: little\nstages:\n- {na", "- 1\n", "\x00\x00", "[" * 3000])
def test_a_damaged_recipe_is_one_line(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    begin(tmp_path)
    with pytest.raises(
        UserError, match=r"recipe.yaml cannot be read .*; put the recipe there that the run was"
    ) as told:
        RunFolder(tmp_path).check(tiny_recipe(CORPUS))
    assert "\n" not in str(told.value)


def test_a_run_that_could_not_start_leaves_its_folder_to_the_corrected_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(held(start="nowhere")))
    for name in ("lock", "versions.json", "checked-shards.json"):
        (tmp_path / name).write_text("{}")
    RunFolder(tmp_path).check(tiny_recipe(CORPUS, start="somewhere"))
    begin(tmp_path)
    with pytest.raises(UserError, match=r"holds a run of another recipe \(its start differ\)"):
        RunFolder(tmp_path).check(tiny_recipe(CORPUS, start="somewhere"))


def test_a_start_that_was_killed_before_its_recipe_was_whole_is_started_again(tmp_path):
    (tmp_path / "recipe.yaml.start-1.partial").write_text("name: lit")
    (tmp_path / "lock").write_text("")  # of an earlier version
    (tmp_path / "leases").mkdir()
    RunFolder(tmp_path).check(tiny_recipe(CORPUS))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "recipe.yaml"
    replace_text(file, "old")
    with patch("os.fsync", side_effect=OSError(28, "No space left on device")), pytest.raises(OSError, match="space"):
        replace_text(file, "new")
    assert file.read_text() == "old"


def test_a_pilot_that_could_not_start_holds_no_recipe_fast(tmp_path):
    run = RunFolder(tmp_path)
    pilot = run.pilots / "whole"
    (pilot / "leases").mkdir(parents=True)
    (pilot / "recipe.yaml").touch()
    assert not run.has_begun
    begin(pilot)
    assert run.has_begun
