"""What the pages say is true: their recipes resolve, their commands exist, and every key of a recipe is explained."""

import re
from pathlib import Path

import pytest
import yaml

from pretrain.__main__ import VERBS
from pretrain.recipe import Recipe, load_recipe, resolve
from pretrain.recipe.load import SHIPPED, model_in

HOME = Path(__file__).parent.parent
PAGES = sorted([*HOME.glob("*.md"), *HOME.glob("docs/**/*.md"), *HOME.glob("ds_configs/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    verbs = set(re.findall(r"^    \./launch\.sh ([a-z]+)", text, re.MULTILINE))
    assert verbs <= {*VERBS, "demo", "test"}
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_recipe_of_the_readme_is_the_one_that_ships(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", (HOME / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    shown = tmp_path / "shown.yaml"
    shown.write_text(block)
    stages = [resolve(load_recipe(file), None, 64).stages for file in (shown, "large-compound")]
    assert stages[0] == stages[1]


def test_every_schedule_of_the_page_on_recipes_is_valid():
    page = (HOME / "docs" / "recipes.md").read_text(encoding="utf-8")
    known, two_phase, timed = re.search(
        r"```yaml\n((?:schedule.*\n)+)(stages.*?)```.*```yaml\n(hours.*?)```", page, re.DOTALL
    ).groups()
    base = yaml.safe_load((SHIPPED / "base.yaml").read_text(encoding="utf-8"))
    base |= {"steps": None, "optimizer": {"lr": 1e-4}}
    for line in known.splitlines():
        schedule = yaml.safe_load(line)
        Recipe.model_validate(base | schedule)
    run = resolve(Recipe.model_validate(base | schedule | yaml.safe_load(two_phase)), None, 8)
    assert (run.end, run.learning_rate(2000)) == (8601, 1e-4)  # 28.43% of the first 7038 steps
    assert resolve(Recipe.model_validate(base | yaml.safe_load(timed)), None, 8).end == 24 * 3600


def test_every_key_of_a_recipe_is_explained():
    page = (HOME / "docs" / "recipes.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([\w.]+)`", page))
    words |= {word.rpartition(".")[2] for word in words} | {word.partition(".")[0] for word in words}
    assert _keys(Recipe) - words == set()


def _keys(schema) -> set[str]:
    keys = {field.alias or name for name, field in schema.model_fields.items()}
    sections = [model for field in schema.model_fields.values() if (model := model_in(field.annotation))]
    return keys.union(*(_keys(section) for section in sections))
