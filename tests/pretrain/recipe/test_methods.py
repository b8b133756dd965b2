"""The shipped methods: each can be planned at every scale, and runs from start to end at the small one."""

import json
import math

import pytest

from pretrain.pages.methods import GROUPS, PAGE, notes, page
from pretrain.recipe import Recipe, load_recipe, resolve
from pretrain.recipe.library import METHODS, laid_over, shipped_names
from pretrain.training.train import train
from tests.support.corpora import made_up_documents, prepared
from tests.support.workers import pool

METHOD_NAMES = sorted(file.stem for file in METHODS.glob("*.yaml"))
STEPS = 20


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("characters"), made_up_documents(60), tokenizer="characters")


def shrunk(recipe: Recipe, corpus: str) -> Recipe:
    """The same stages and changes in a few small steps: shares stay, counts of steps become one or two."""
    values = json.loads(recipe.model_dump_json(by_alias=True, exclude_defaults=True))
    few = laid_over(values, {
        "steps": None if recipe.hours else STEPS,
        "hours": 1 / 3600 if recipe.hours else None,
        "model": {"layers": 4, "hidden": 32, "heads": 2, "ffn": 64, "max_positions": 32},
        "data": {"corpus": corpus},
        "sequence": 32,
        "batch": {"global": 4},
        "validation": {"rows": 4, "every": 0},
        "checkpoint": {"background": False},
    })  # fmt: skip
    few |= {key: _few(few[key]) for key in ("schedule", "stages")}
    for stage in few["stages"]:
        if stage.get("until", {}).keys() & {"ticket_distance", "loss_slope"}:  # they need more steps than there are
            del stage["until"]
        for operator in stage.get("grow", []):
            if "ligo" in operator:
                operator["ligo"]["steps"] = 2
    return Recipe.model_validate(few)


def _few(value):
    """Every count of steps that may be longer than its stage cut to 1."""
    if isinstance(value, list):
        return [_few(item) for item in value]
    if not isinstance(value, dict):
        return value
    counts = ("rewarm", "warmup", "every")
    return {key: min(item, 1) if key in counts and isinstance(item, int) else _few(item) for key, item in value.items()}


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_method_runs_from_its_first_stage_to_its_last(method, corpus, tmp_path):
    recipe = shrunk(load_recipe(f"{method}-mini"), str(corpus.directory))
    planned = resolve(recipe, corpus.vocab_size, 1)
    pool(1).run(train, recipe, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    stages = [stage["name"].partition("/")[0] for stage in summary["stages"]]  # parts of a stage that splits blocks
    assert list(dict.fromkeys(stages)) == [stage.name for stage in planned.stages]
    assert math.isfinite(summary["valid_loss"])
    changes = ["+".join(operator.name for operator in stage.grow) for stage in planned.stages if stage.grow]
    assert [event["operator"] for event in summary["growth"] if event["operator"] in changes] == changes


def test_all_scales_have_all_methods():
    assert {f"{method}-{scale}" for method in METHOD_NAMES for scale in ("base", "large", "mini")} < set(
        shipped_names()
    )


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_stages_of_a_method_end_in_the_whole_model(method):
    """But for EarlyBERT, which prunes it, and for gates, which take the place of some units."""
    for scale in ("base", "large", "mini"):
        run = resolve(load_recipe(f"{method}-{scale}"), None, 8)
        plain = resolve(load_recipe(scale), None, 8).stages[-1].config
        last = run.stages[-1].config
        if not method.startswith("earlybert"):
            sizes = ("layers", "hidden", "heads") if last.gated else ("layers", "hidden", "heads", "ffn")
            assert all(getattr(last, field) == getattr(plain, field) for field in sizes)
        assert run.stages[-1].sequence == (128 if scale == "mini" else run.recipe.sequence)


def test_the_page_on_methods_is_up_to_date():
    assert sorted(method for methods in GROUPS.values() for method in methods) == METHOD_NAMES
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m pretrain.pages.methods"


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_method_says_where_its_numbers_come_from(method):
    found = notes(METHODS / f"{method}.yaml")
    assert found
    assert all(note.startswith(("Paper", "Code", "Chosen")) for note in found)
