"""docs/adding-an-optimizer.md: one file and a line in a list make the optimizer, and its test passes."""

import pytest

from tests.support.page_code import Copy, blocks, with_page

PAGE = "adding-an-optimizer.md"

READ = """
from model.errors import UserError
from pretrain.recipe import Recipe, load_recipe
from pretrain.recipe.load import explained
from pretrain.settings.yaml_text import parse

base = load_recipe("base").model_dump(by_alias=True)
del base["optimizer"]
section = parse(RECIPE, "page")
print(Recipe.model_validate({**base, **section}).optimizer.chosen)
try:
    with explained(Recipe):
        Recipe.model_validate({**base, "optimizer": {**section["optimizer"], "name": "adamw"}})
except UserError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Copy:
    return with_page(PAGE, tmp_path_factory.mktemp("optimizer"))


def test_it_is_one_file_and_a_list(copy):
    assert copy.new_files == ["pretrain/optim/radam.py", "tests/test_radam.py"]
    assert set(copy.changed_files) == {"pretrain/optim/__init__.py"}


def test_the_test_on_the_page_passes(copy):
    assert "1 passed" in copy.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_radam.py")


def test_recipes_know_it(copy):
    (recipe,) = (block.text for block in blocks(PAGE) if block.language == "yaml")
    printed = copy.run("-c", f"RECIPE = {recipe!r}\n{READ}")
    assert "lr=0.001" in printed and "decoupled=False" in printed
    assert "optimizer: decoupled is for radam, not for adamw; remove it" in printed


def test_the_reference_has_its_options(copy):
    printed = copy.run("-c", "from pretrain.pages.reference import reference; print(reference())")
    assert "| `optimizer.decoupled` |" in printed
