"""Runs the pilots of `until: mixing` before the run, and dates its change of shape by what they show.

They are runs of their own in the folder `pilots` of the run, with checkpoints from which they resume. Once both have
finished, their files say all: a run that is started again before its first checkpoint reads them again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pretrain.checkpoint.progress import Decision, Progress
from pretrain.checkpoint.store import newest_name
from pretrain.engine.agreement import read_once, say_once
from pretrain.engine.exits import Stop
from pretrain.recipe import Recipe, ResolvedStage, Run
from pretrain.recipe.pilots import GROWN, WHOLE, in_pilot, mixing_rule, pilots
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import History
from pretrain.stage_rules.mixing import mixing_time
from pretrain.training.events import Hook, TrainerView
from pretrain.training.hooks.journal import Journal, record_stop


@dataclass(frozen=True)
class Measured:
    """What the pilots have shown, and what they have cost together."""

    steps: int | None
    """The mixing time. None: the pilots did not meet."""
    num_tokens: int
    flops: float
    train_seconds: float
    device_seconds: float


def measure(run: Run, folder: RunFolder, train: Callable[[Recipe, Path, Hook], None]) -> "DateOfTheHop | None":
    """Trains the pilots that the run asks for. Returns the hook that makes use of them at its beginning; None for a run
    that is past it, or asks for none. Collective. Raises Stop on all ranks, as the run itself would."""
    if mixing_rule(run) is None or read_once(lambda: newest_name(folder.checkpoints)):
        return None
    recipes = read_once(lambda: pilots(run))
    folders = {name: RunFolder(folder.pilots / name) for name in recipes}
    for name, recipe in recipes.items():
        if not read_once(folders[name].summary.is_file):
            say_once(f"until.mixing: the pilot {name} takes {recipe.steps:,} steps, in {folders[name].path}")
            try:
                train(recipe, folders[name].path, Begun(Journal(folder, run.recipe.faults.notify)))
            except Stop as stop:
                named = Stop(in_pilot(name, stop), stop.code)
                record_stop(folder, 0, named)
                raise named from None
    return DateOfTheHop(read_once(lambda: _read(run, folders)))


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
        device_seconds=sum(each["device_seconds"] for each in found) / run.num_ranks,
    )


class Begun(Hook):
    """A run has begun with its first pilot: its journal says so, for `status` and the launcher."""

    def __init__(self, journal: Journal):
        self.journal = journal

    def on_start(self, trainer: TrainerView) -> None:
        if dist.get_rank() == 0:
            self.journal.begin(0)


class DateOfTheHop(Hook):
    """Counts in the run what its pilots have cost, and dates the end of its first stage."""

    def __init__(self, measured: Measured):
        self.measured = measured
        self.events: list[dict[str, Any]] = []
        """What there is to tell once the run starts."""

    def begin(self, run: Run, progress: Progress) -> None:
        """Of a run that resumes from nothing, before anything measures from where it is."""
        measured, stage = self.measured, run.stages[0]
        progress.num_tokens += measured.num_tokens
        progress.flops += measured.flops
        progress.train_seconds += measured.train_seconds
        progress.device_seconds += measured.device_seconds
        steps, place = measured.steps, {"step": 0, "stage": stage.name, "rule": "mixing"}
        end = stage.end if steps is None else min(stage.end, run.end - steps)
        found = "the pilots did not meet" if steps is None else f"the pilots met {steps:,} steps after the hop"
        if end == stage.end:
            left = "" if steps is None else f": the run has {run.end - end:,.0f} steps after it"
            found += f", and stage {stage.name} keeps its length{left}"
        numbers = {"mixing_steps": steps, "end": end, "pilot_flops": measured.flops}
        self.events = [{"event": "mixing", **place, **numbers, "message": f"mixing: {found}"}]
        if end < stage.end:
            progress.decisions.append(Decision(stage.index, end=end))
            message = f"mixing ends stage {stage.name} at step {end:,.0f}; it could have lasted to {stage.end:,.0f}"
            self.events.append({"event": "decision", **place, "message": message})

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        for event in self.events:
            trainer.call("on_event", event)
        self.events = []
