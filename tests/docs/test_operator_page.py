"""docs/adding-an-operator.md: the operator on the page runs, from a recipe, and so does the test that it shows."""

import re
from importlib import import_module

import pytest

from growth import operators
from model.config import BertConfig
from model.errors import UserError
from pretrain.recipe import Recipe, load_recipe, resolve
from pretrain.settings.yaml_text import parse
from tests.support.home import HOME

PAGE = (HOME / "docs" / "adding-an-operator.md").read_text(encoding="utf-8")
OPERATOR, DUTY, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(RECIPE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def drop_layers(monkeypatch):
    scope = {"__name__": "growth.operators.drop_layers"}
    exec(OPERATOR, scope)
    monkeypatch.setitem(operators.OPERATORS, "drop_layers", scope["DropLayers"])
    return scope["DropLayers"]


def test_the_operator_has_at_most_50_lines():
    assert OPERATOR.count("\n") <= 50


def test_the_test_on_the_page_passes(drop_layers):
    scope = {"DropLayers": drop_layers}
    exec(TEST, scope)
    scope["test_layers_that_stay_are_unchanged"]()


def test_the_recipe_on_the_page_reaches_its_shape(drop_layers):
    base = load_recipe("base").model_dump(by_alias=True)
    recipe = Recipe.model_validate({**base, "steps": None, "schedule": {}, **parse(RECIPE, "page")})
    shallow = resolve(recipe, None, 8).stages[1]
    assert shallow.config.layers == 6
    assert shallow.grow[0].kept(12, 6) == [0, 1, 2, 3, 4, 5]


def test_the_page_names_every_test_that_asks_for_a_line():
    tests = HOME / "tests"
    asks = re.compile(r"== OPERATORS.keys\(\)|parametrize\(\"name\", OPERATORS\)")
    asking = [file for file in tests.rglob("test_*.py") if asks.search(file.read_text("utf-8"))]
    assert len(asking) == 3
    assert all(f"`{file.relative_to(HOME)}`" in PAGE for file in asking)


def test_its_command_writes_the_page_that_it_is_for():
    """Without a redirect: the program writes the file itself and prints nothing."""
    ((page, command),) = re.findall(r"^\| `(docs/[a-z-]+\.md)` \|.*`(python [^`]*)`", PAGE, re.MULTILINE)
    assert re.fullmatch(r"python -m [a-z.]+", command)
    program = import_module(command.split()[-1])
    assert HOME / page == program.PAGE


def test_its_mistakes_are_one_line(drop_layers):
    config = BertConfig(layers=4, hidden=16, heads=2, ffn=32, vocab_size=50)
    with pytest.raises(UserError, match="layers 4 -> 4 drops none"):
        drop_layers().target(config, {"layers": 4})
    with pytest.raises(UserError, match="layers share blocks"):
        drop_layers().target(config.replace(sharing=2), {})
