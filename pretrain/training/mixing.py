"""Runs the pilots of `until: mixing` before the run, and dates its change of shape by what they show.

They are runs of their own in the folder `pilots` of the run, with checkpoints from which they resume. Once both have
finished, their files say all: a run that is started again before its first checkpoint reads them again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pretrain.checkpoint.progress import Decision, Progress
from pretrain.checkpoint.store import newest_name
from pretrain.engine.agreement import read_once, say_once
from pretrain.recipe import Recipe, ResolvedStage, Run
from pretrain.recipe.pilots import GROWN, WHOLE, mixing_rule, pilots
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import History
from pretrain.stage_rules.mixing import mixing_time
from pretrain.training.events import Hook, TrainerView


@dataclass(frozen=True)
class Measured:
    """What the pilots have shown, and what they have cost together."""

    steps: int | None
    """The mixing time. None: the pilots did not meet."""
    num_tokens: int
    flops: float
    train_seconds: float
    device_seconds: float


def measure(run: Run, folder: RunFolder, train: Callable[[Recipe, Path], None]) -> "list[DateOfTheHop]":
    """Trains the pilots that the run asks for. Returns the hook that makes use of them at its beginning; none for a run
    that is past it, or asks for none. Collective."""
    if mixing_rule(run) is None or read_once(lambda: newest_name(folder.checkpoints)):
        return []
    recipes = pilots(run)
    folders = {name: RunFolder(folder.path / "pilots" / name) for name in recipes}
    for name, recipe in recipes.items():
        if not read_once(folders[name].summary.is_file):
            say_once(f"until.mixing: the pilot {name} takes {recipe.steps:,} steps, in {folders[name].path}")
            train(recipe, folders[name].path)
    return [DateOfTheHop(read_once(lambda: _read(run, folders)))]


def _read(run: Run, folders: dict[str, RunFolder]) -> Measured:
    rule = mixing_rule(run)
    assert rule is not None
    whole, grown = ([step["loss"] for step in History.read(folders[name].path).steps] for name in (WHOLE, GROWN))
    _, hop, window = rule.counts
    found = [json.loads(each.summary.read_text("utf-8")) for each in folders.values()]
    return Measured(
        mixing_time(whole, grown, hop, window, rule.tolerance),
        num_tokens=sum(each["tokens"] for each in found),
        flops=sum(each["flops"] for each in found),
        train_seconds=sum(each["seconds"] for each in found),
        device_seconds=sum(each["device_seconds"] / each["ranks"] for each in found),
    )


class DateOfTheHop(Hook):
    """At step 0 the run counts what its pilots have cost, and decides when its first stage ends."""

    def __init__(self, measured: Measured):
        self.measured = measured

    def count(self, progress: Progress) -> None:
        """Adds the costs, before anything begins to measure from where the run is."""
        if progress.step == 0:
            measured = self.measured
            progress.num_tokens += measured.num_tokens
            progress.flops += measured.flops
            progress.train_seconds += measured.train_seconds
            progress.device_seconds += measured.device_seconds

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        if trainer.progress.step > 0:
            return
        end, steps = stage.end, self.measured.steps
        if steps is None:
            found = f"the pilots did not meet, so stage {stage.name} keeps its length"
        else:
            end = min(end, trainer.run.end - steps)
            found = f"the pilots met {steps:,} steps after the hop, so stage {stage.name} ends at step {end:,.0f}"
        place = {"step": 0, "stage": stage.name, "rule": "mixing"}
        numbers = {"mixing_steps": steps, "end": end, "pilot_flops": self.measured.flops}
        trainer.call("on_event", {"event": "mixing", **place, **numbers, "message": f"mixing: {found}"})
        if end < stage.end:
            trainer.decide(Decision(stage.index, end=end))
