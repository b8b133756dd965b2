"""docs/adding-a-hook.md: the hook on the page works in a real run, and its test passes."""

import json
import re
from pathlib import Path

from pretrain.recipe import Recipe
from pretrain.runs.history import History
from pretrain.training.events import Hook
from pretrain.training.train import train
from tests.support.home import HOME
from tests.support.tiny import tiny_recipe
from tests.support.workers import pool

PAGE = (HOME / "docs" / "adding-a-hook.md").read_text(encoding="utf-8")
HOOK, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def loss_spikes() -> type[Hook]:
    scope = {"__name__": "pretrain.training.hooks.loss_spikes"}
    exec(HOOK, scope)
    return scope["LossSpikes"]


def test_the_hook_has_at_most_40_lines():
    assert HOOK.count("\n") <= 40


def test_the_page_names_every_place():
    places = [name for name in vars(Hook) if name.startswith("on_")]
    assert re.findall(r"^\| `(on_\w+)` \|", PAGE, re.MULTILINE) == places


def test_the_test_on_the_page_passes():
    scope = {"LossSpikes": loss_spikes()}
    exec(TEST, scope)
    scope["test_a_spike_is_reported_and_a_resumed_run_remembers_the_mean"]()


def train_with_it(recipe: Recipe, folder: Path) -> None:
    train(recipe, folder, [loss_spikes()(factor=0.5)])


def test_a_run_writes_its_events_and_saves_its_state(corpus, tmp_path):
    recipe = tiny_recipe(corpus, stages=[{"name": "only", "steps": 3}], schedule={})
    pool(1).run(train_with_it, recipe, tmp_path / "run")
    events = History.read(tmp_path / "run").events("loss_spike")
    assert [event["step"] for event in events] == [1, 2, 3]
    assert events[0]["message"] in (tmp_path / "run" / "report.html").read_text()
    index = json.loads((tmp_path / "run" / "checkpoints" / "step-00000003" / "index.json").read_text())
    assert index["run"]["hooks"]["loss_spikes"]["mean"] > 0
