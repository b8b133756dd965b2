"""What a recipe or a corpus names is shown as it is written, and is never Markdown or HTML of the model card."""

import yaml

from pretrain.runs.model_card import _recipe, _table


def test_cells_are_text():
    table = _table(("", ""), [("sources", "a|b.txt\n<script>x</script> [here](http://x) `c`")])
    assert table.splitlines()[-1] == (
        "| sources | a\\|b.txt &lt;script&gt;x&lt;/script&gt; \\[here\\](http://x) \\`c\\` |"
    )


def test_keys_that_are_not_set_are_left_out():
    stage = {
        "name": "full",
        "steps": 5,
        "hours": None,
        "batch": {"global": None, "micro": None},
        "grow": [{"stack": {}}],
    }
    recipe = {"name": "mine", "paper": None, "seed": 0, "stages": [stage]}
    text = _recipe(recipe)
    assert "null" not in text
    kept = {"name": "full", "steps": 5, "grow": [{"stack": {}}]}
    assert yaml.safe_load(text.split("```")[1].removeprefix("yaml")) == {"name": "mine", "seed": 0, "stages": [kept]}


def test_the_recipe_cannot_end_its_block():
    recipe = {"paper": {"claim": "before\n````\n# A heading\n"}}
    text = _recipe(recipe)
    fence = text.splitlines()[2].removesuffix("yaml")
    assert fence == "`" * 5
    assert yaml.safe_load(text.split(fence)[1].removeprefix("yaml")) == recipe
