"""The folder of a run: which recipes may resume it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from model.errors import UserError
from pretrain.recipe import Recipe
from pretrain.runs.folder import RunFolder
from tests.support.tiny import tiny_recipe

CORPUS = Path("corpora/tiny")


def held(**changes: Any) -> dict[str, Any]:
    """The recipe that a run of the tiny recipe leaves in its folder."""
    return json.loads(tiny_recipe(CORPUS, **changes).model_dump_json(by_alias=True))


def check(folder: Path, values: dict[str, Any], recipe: Recipe) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    RunFolder(folder).check(recipe)


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
    other = tiny_recipe(CORPUS, layout={"tensor_parallel": 2}, checkpoint={"every": 1}, data={"corpus": "elsewhere"})
    check(tmp_path, held(), other)
