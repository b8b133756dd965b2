"""What the pages say is true: their recipes resolve, their commands exist, and the reference is the code's."""

import re

import pytest

from pretrain.cli import VERBS
from pretrain.pages.reference import PAGE, reference
from pretrain.recipe import Recipe, load_recipe, resolve
from pretrain.recipe.pilots import pilots
from pretrain.recipe.schema import Stage
from pretrain.settings.yaml_text import parse
from tests.support.home import HOME

PAGES = sorted([*HOME.glob("*.md"), *HOME.glob("docs/**/*.md"), *HOME.glob("ds_configs/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    verbs = set(re.findall(r"^    \./launch\.sh ([a-z]+)", text, re.MULTILINE))
    assert verbs <= {*VERBS, "test", "check"}
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_can_be_read_without_scrolling(page):
    """Tables aside, and pages that are written from the code."""
    text = page.read_text(encoding="utf-8")
    if "This page is written by" not in text:
        assert [line for line in text.splitlines() if len(line) > 131 and not line.startswith("|")] == []


def test_the_readme_leads_to_every_page():
    readme = (HOME / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in sorted(HOME.glob("docs/*.md")) if f"(docs/{page.name})" not in readme] == []


def test_the_recipe_of_the_readme_is_the_one_that_ships(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", (HOME / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    shown = tmp_path / "shown.yaml"
    shown.write_text(block)
    ours, theirs = (load_recipe(file) for file in (shown, "espalier-large"))
    assert resolve(ours, None, 64).stages == resolve(theirs, None, 64).stages
    assert ours.model_dump(exclude={"name", "stages"}) == theirs.model_dump(exclude={"name", "stages"})


def test_the_recipes_of_the_page_on_recipes_are_valid(tmp_path):
    page = (HOME / "docs" / "recipes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    mine, stages, grow, objectives, dropping, ends, hop, cycle, ticket, taught, *rest = blocks
    schedules, peak, decay, timed = rest
    base = load_recipe("base").model_dump(by_alias=True) | {"optimizer": {"lr": 1e-4}}

    def run(**values):
        return resolve(Recipe.model_validate(base | values), None, 8)

    (tmp_path / "mine.yaml").write_text(mine)
    assert resolve(load_recipe(tmp_path / "mine.yaml"), None, 8).stages[0].lr_scale == 0.5
    assert [stage.length for stage in run(schedule={}, **parse(stages, "page")).stages] == [1000, 2000, 3000, 4000]
    for line in (grow + ends).splitlines():
        Stage.model_validate({"name": "grown"} | parse(line, "page"))
    words = base["data"] | {"sentence_pairs": "none"}
    assert [stage.predicted_share for stage in run(data=words, **parse(objectives, "page")).stages] == pytest.approx(
        [1, 0.225]
    )
    assert [bool(stage.config.token_dropping) for stage in run(**parse(dropping, "page")).stages] == [True, False]
    assert [pilot.steps for pilot in pilots(run(**parse(hop, "page"))).values()] == [100_000, 100_000]
    assert run(**parse(cycle, "page")).saved_states == ["large"]
    assert run(schedule={}, **parse(ticket, "page")).saved_states == ["initial"]
    small, full = run(**parse(taught, "page")).stages
    assert full.align.config == small.config and full.align.layer_of(full.config) == 1
    *known, two_phase = re.split(r"\n(?=schedule:)", schedules)
    assert len(known) == 4
    for line in known:
        run(**parse(line, "page"))
    phases = run(steps=None, **parse(two_phase, "page"))
    assert phases.end == 8601
    assert phases.learning_rate(2000) == 1e-4  # 28.43% of the first 7038 steps
    for text, hours in ((peak, 30), (decay, 3)):
        (tmp_path / "hours.yaml").write_text(text)
        assert resolve(load_recipe(tmp_path / "hours.yaml"), None, 8).end == hours * 3600
    assert run(steps=None, **parse(timed, "page")).end == 24 * 3600


def test_the_reference_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run python -m pretrain.pages.reference"
