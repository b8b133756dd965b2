"""docs/adding-a-stage-rule.md: one file and a line in a list make the rule, and its test passes."""

import pytest

from tests.support.page_code import Copy, blocks, with_page

PAGE = "adding-a-stage-rule.md"

PLAN = """
from io import StringIO

from rich.console import Console

from model.errors import UserError
from pretrain.cost.plan import plan_tables
from pretrain.recipe import Recipe, load_recipe, resolve
from pretrain.settings.yaml_text import parse

base = load_recipe("base").model_dump(by_alias=True)
values = {**base, "steps": 1000, "schedule": {}, "model": {"preset": "tiny", "layers": 6}, **parse(RECIPE, "page")}
text = StringIO()
Console(file=text, width=1000).print(plan_tables(resolve(Recipe.model_validate(values), None, 8)))
print(text.getvalue())
values["stages"][0]["until"]["loss_slope"] = {}
try:
    resolve(Recipe.model_validate(values), None, 8)
except UserError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Copy:
    return with_page(PAGE, tmp_path_factory.mktemp("stage-rule"))


def test_it_is_one_file_and_a_list(copy):
    assert copy.new_files == ["pretrain/stage_rules/plateau.py", "tests/pretrain/stage_rules/test_plateau.py"]
    assert set(copy.changed_files) == {"pretrain/stage_rules/__init__.py"}


def test_the_test_on_the_page_passes(copy):
    test = "tests/pretrain/stage_rules/test_plateau.py"
    assert "3 passed" in copy.run("-m", "pytest", "-q", "-p", "no:cacheprovider", test)


def test_plan_and_checks_know_it(copy):
    (recipe,) = (block.text for block in blocks(PAGE) if block.language == "yaml")
    printed = copy.run("-c", f"RECIPE = {recipe!r}\n{PLAN}")
    assert (
        "small: at most 600 steps, until the loss reaches no new minimum (checked every 10 steps, 5 times in a row)"
        in printed
    )
    assert "stage small: until.plateau and until.loss_slope both end a stage whose loss is flat" in printed


def test_the_reference_has_its_settings(copy):
    printed = copy.run("-c", "from pretrain.pages.reference import reference; print(reference())")
    assert "| `plateau.by` | number | `0.0` | A new minimum is at least this much lower, in nats. |" in printed
