"""Curves for Weights & Biases and trackio, through a stand-in for their module."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from model.errors import UserError
from pretrain.runs.folder import RunFolder
from pretrain.training.events import Evaluation, GrowthEvent, StepResult
from pretrain.training.hooks.trackers import Tracker
from pretrain.training.preflight import check_run
from tests.support.tiny import tiny_recipe

RESULT = StepResult(3, "only", 5.0, 5.0, 0.1, None, 1e-3, 1.0, 256, 1e9, 0.5, 512.0)


class StandIn(ModuleType):
    """Notes its calls; `fails` names the function that raises."""

    def __init__(self, name: str, fails: str = ""):
        super().__init__(name)
        self.calls: list[tuple] = []
        for function in ("init", "log", "finish"):
            setattr(self, function, self._noted(function, function == fails))

    def _noted(self, name: str, fails: bool):
        def function(*arguments, **options):
            self.calls.append((name, arguments, options))
            if fails:
                raise ConnectionError("no route")

        return function


def told(tmp_path: Path, monkeypatch, name: str, fails: str = "") -> tuple[StandIn, list[dict]]:
    module, events = StandIn(name, fails), []
    monkeypatch.setitem(sys.modules, name, module)
    trainer = SimpleNamespace(
        run=SimpleNamespace(recipe=tiny_recipe(tmp_path, trackers=[name])),
        progress=SimpleNamespace(step=0),
        call=lambda place, event: events.append(event),
    )
    hook = Tracker(name, RunFolder(tmp_path / "my-run"))
    hook.on_start(trainer)
    hook.on_stage(trainer, SimpleNamespace(index=1))
    hook.on_step(trainer, RESULT)
    hook.on_growth(trainer, GrowthEvent("stack", 3, "only", 5.0, 5.1, 0.1, "copy"))
    hook.on_validation(trainer, Evaluation(4.9, 0.2))
    hook.on_end(trainer)
    return module, events


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_it_gets_the_recipe_the_curves_and_the_changes(tmp_path, monkeypatch, name):
    monkeypatch.setenv("WANDB_PROJECT", "grown")
    module, events = told(tmp_path, monkeypatch, name)
    (_, _, options), *logs, (last, *_) = module.calls
    assert options["project"] == ("grown" if name == "wandb" else "espalier")
    assert options["name"] == "my-run" and options["config"]["optimizer"]["lr"] == 3e-3
    assert options["resume"] == "allow" and ("id" in options) == (name == "wandb"), "a resumed run goes on in its own"
    assert [arguments[0].get("stage", arguments[0].get("loss")) for _, arguments, _ in logs[:2]] == [1, 5.0]
    assert logs[1][1][0]["tokens"] == 256 and logs[1][2] == {"step": 3}
    assert logs[2][1][0] == {"growth/loss_before": 5.0, "growth/loss_after": 5.1}
    assert logs[3][1][0] == {"valid_loss": 4.9, "valid_accuracy": 0.2}
    assert last == "finish" and events == []


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_its_failure_is_told_once_and_stops_nothing(tmp_path, monkeypatch, fails):
    _, events = told(tmp_path, monkeypatch, "trackio", fails)
    assert [event["message"] for event in events] == [
        "trackio fails (ConnectionError: no route); the run continues without it"
    ]


def test_a_package_that_is_missing_is_found_before_the_run(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.training.preflight.find_spec", lambda name: None)
    with pytest.raises(UserError, match="trackers: wandb is not installed here; pip install wandb, or leave it out"):
        check_run(tiny_recipe(corpus, trackers=["wandb"]), 1, tmp_path / "run")
