"""`precision: auto`: what it becomes on a machine, and that a run keeps what its first start chose."""

import json
from pathlib import Path

import pytest
import yaml

from pretrain.recipe import load_recipe, precision, resolve
from pretrain.recipe.precision import precision_in_words, with_precision
from pretrain.runs.folder import RunFolder
from tests.support.tiny import tiny_recipe

AUTO = tiny_recipe(Path("corpora/tiny"), precision="auto")


@pytest.fixture(params=[True, False], ids=["a machine with bf16", "one without"])
def chosen(request, monkeypatch):
    monkeypatch.setattr(precision, "computes_in_bf16", lambda: request.param)
    return "bf16" if request.param else "fp32"


def test_a_new_run_takes_what_the_machine_computes_in(chosen):
    run = resolve(AUTO, None, 1)
    assert {run.recipe.precision, *(stage.precision for stage in run.stages)} == {chosen}
    said = precision_in_words(AUTO, run.recipe)
    assert said is not None and said.startswith(f"precision auto: {chosen}, since this machine ")
    assert ("does not" in said) == (chosen == "fp32")


def test_a_run_keeps_what_it_began_with(chosen, tmp_path):
    begun = with_precision(AUTO)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(json.loads(begun.model_dump_json(by_alias=True))))
    (tmp_path / "metrics.jsonl").write_text("")
    other, folder = {"bf16": "fp32", "fp32": "bf16"}[chosen], RunFolder(tmp_path)
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr(precision, "computes_in_bf16", lambda: other == "bf16")
        resumed = folder.completed(AUTO)
        folder.check(resumed)
        assert resumed.precision == chosen
        expected = f"precision {chosen}, as the run was begun; on this machine auto would choose {other}"
        assert precision_in_words(AUTO, resumed) == expected


def test_a_precision_with_a_name_is_left_alone(chosen):
    for name in ("fp32", "bf16", "fp16"):
        recipe = AUTO.model_copy(update={"precision": name})
        assert with_precision(recipe, with_precision(AUTO)) is recipe
        assert precision_in_words(recipe, recipe) is None


def test_recipes_for_cpus_choose_and_those_for_gpus_say():
    assert {name: load_recipe(name).precision for name in ("demo", "mini", "fast-mini", "base", "large")} == {
        **dict.fromkeys(("demo", "mini", "fast-mini"), "auto"),
        **dict.fromkeys(("base", "large"), "bf16"),
    }
