"""Finished runs, and the seeds of one recipe at one budget as one contender."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from model.errors import UserError
from pretrain.recipe import Recipe
from pretrain.recipe.load import explained
from pretrain.run_folder import RunFolder, lasting

COSTS = ("flops", "tokens", "seconds", "device_seconds")


@dataclass(frozen=True)
class FinishedRun:
    """One folder under runs/."""

    path: Path
    recipe: Recipe
    shape: str
    """Of the last stage."""
    valid_loss: float
    valid_accuracy: float
    costs: dict[str, float]
    """By COSTS, of the whole run: training steps and changes of shape, not validation and checkpoints."""
    growth: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> "FinishedRun":
        """Raises UserError where the folder holds no finished run."""
        folder = RunFolder(path)
        if not folder.summary.is_file():
            raise UserError(
                f"{path} holds no finished run (no summary.json); name folders under runs/ that are finished"
            )
        summary = json.loads(folder.summary.read_text("utf-8"))
        values = yaml.safe_load(folder.recipe.read_text("utf-8"))
        values["stages"] = [_without_nulls(stage) for stage in values["stages"]]
        with explained(Recipe, str(folder.recipe)):
            recipe = Recipe.model_validate(values)
        growing_seconds = sum(event["seconds"] for event in summary["growth"])
        return cls(
            path=path,
            recipe=recipe,
            shape=summary["stages"][-1]["shape"],
            valid_loss=summary["valid_loss"],
            valid_accuracy=summary["valid_accuracy"],
            costs={
                "flops": summary["flops"],
                "tokens": summary["tokens"],
                "seconds": summary["seconds"] + growing_seconds,
                "device_seconds": summary["device_seconds"] + growing_seconds * summary["ranks"],
            },
            growth=tuple(summary["growth"]),
        )

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def seed(self) -> int:
        return self.recipe.seed

    @property
    def budget(self) -> str:
        if self.recipe.hours:
            return f"{self.recipe.hours:g} hours"
        return f"{self.recipe.steps or sum(stage.steps for stage in self.recipe.stages):,} steps"


def _without_nulls(stage: dict[str, Any]) -> dict[str, Any]:
    """What a stage leaves out is null in the file, for keys that were sections later, too."""
    return {key: value for key, value in stage.items() if value is not None}


def by_recipe(runs: Sequence[FinishedRun]) -> list[tuple[FinishedRun, ...]]:
    """The runs of each recipe (by its name) and budget, in the order of their seeds.

    Raises UserError where two of them are no seeds of one recipe: the same seed twice, or settings that differ.
    """
    groups: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault((run.name, run.budget), []).append(run)
    for group in groups.values():
        group.sort(key=lambda run: run.seed)
        for one, other in pairwise(group):
            _check_alike(one, other)
    return [tuple(group) for group in groups.values()]


def _check_alike(one: FinishedRun, other: FinishedRun) -> None:
    if one.seed == other.seed:
        raise UserError(
            f"{one.path} and {other.path} are both seed {one.seed} of {one.name} at {one.budget}; leave one out"
        )
    settings = [lasting(run.recipe) for run in (one, other)]
    different = [key for key in settings[0] if key != "seed" and settings[0][key] != settings[1][key]]
    if different:
        raise UserError(
            f"{one.path} and {other.path} are both {one.name} at {one.budget}, but their {', '.join(different)} "
            "differ; train one of them under another name (--set name=...)"
        )
