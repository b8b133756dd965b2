"""Finished runs, and the seeds of one recipe at one budget as one contender."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from model.errors import UserError
from pretrain.compare.run_files import Before, Growth, Step, ValidationRows, read_recipe, read_steps, read_summary
from pretrain.recipe import Recipe
from pretrain.recipe.noise import as_recorded
from pretrain.runs.folder import RunFolder, lasting

COSTS = ("flops", "tokens", "seconds", "device_seconds")


@dataclass(frozen=True)
class FinishedRun:
    """One folder under runs/. If it continues the state of another run, that one's costs are its own as well."""

    path: Path
    recipe: Recipe
    shape: str
    """Shape of the last stage."""
    validated_on: ValidationRows
    valid_loss: float
    valid_accuracy: float
    costs: dict[str, float]
    """By COSTS, for the whole run: training steps and shape changes, without validation and checkpoints."""
    growth: tuple[Growth, ...]
    steps: tuple[Step, ...]
    before: Before | None = None

    @classmethod
    def read(cls, path: Path) -> "FinishedRun":
        """Raises UserError if the folder holds no finished run, or if one of its files is damaged."""
        folder = RunFolder(path)
        if not folder.summary.is_file():
            raise UserError(f"{path} is not a finished run (no summary.json); name finished folders under runs/")
        summary = read_summary(folder.summary)
        growing_seconds = sum(event.seconds for event in summary.growth)
        before, steps = summary.before, read_steps(folder.metrics)
        own = {
            "flops": summary.flops,
            "tokens": summary.tokens,
            "seconds": summary.seconds + growing_seconds,
            "device_seconds": summary.device_seconds + growing_seconds * summary.ranks,
        }
        return cls(
            path=path,
            recipe=read_recipe(folder.recipe),
            shape=summary.stages[-1].shape,
            validated_on=summary.validated_on,
            valid_loss=summary.valid_loss,
            valid_accuracy=summary.valid_accuracy,
            costs=_with_earlier(own, before) if before else own,
            growth=tuple(summary.growth),
            steps=_after_earlier(steps, before) if before else steps,
            before=before,
        )

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def seed(self) -> int:
        return self.recipe.seed

    @property
    def recipes(self) -> list[Recipe]:
        """Of the runs that it continues, the first one's first, and its own."""
        return [*(map(as_recorded, self.before.recipes) if self.before else ()), self.recipe]

    @property
    def settings(self) -> list[dict[str, Any]]:
        """What its training depends on, as JSON: of each of `recipes`, where all but the first begin with the state of
        the one before."""
        first, *later = [lasting(recipe) for recipe in self.recipes]
        return [first, *({**values, "start": None, "start_with": "weights"} for values in later)]

    @property
    def budget(self) -> str:
        recipe, before = self.recipe, self.before
        counts = (stage.steps for stage in recipe.stages)
        steps = recipe.steps or sum(count for count in counts if isinstance(count, int))
        if before is None:
            return f"{recipe.hours:g} hours" if recipe.hours else f"{steps:,} steps"
        earlier_hours = before.train_seconds / 3600
        if recipe.hours:
            return f"{earlier_hours + recipe.hours:.3g} hours"
        if any(earlier.hours for earlier in before.recipes):
            return f"{steps:,} steps after {earlier_hours:.3g} hours"
        return f"{before.steps + steps:,} steps"


def _with_earlier(own: dict[str, float], before: Before) -> dict[str, float]:
    return {
        "flops": own["flops"] + before.flops,
        "tokens": own["tokens"] + before.num_tokens,
        "seconds": own["seconds"] + before.seconds,
        "device_seconds": own["device_seconds"] + before.device_seconds,
    }


def _after_earlier(steps: Sequence[Step], before: Before) -> tuple[Step, ...]:
    return tuple(
        step.model_copy(update={"flops": step.flops + before.flops, "seconds": step.seconds + before.seconds})
        for step in steps
    )


def check_validation(runs: Sequence[FinishedRun]) -> None:
    """Raises UserError where validation losses say nothing of one another."""
    for one, other in pairwise(runs):
        difference = _validation_difference(one, other)
        if difference:
            raise UserError(
                f"{one.path} and {other.path} were validated on different {difference}, so their losses cannot be "
                "compared; leave one out, or train it on what the other was"
            )


def mixed_precisions(runs: Sequence[FinishedRun]) -> str | None:
    """A line that says which runs were trained in which precision, if there are several."""
    names: dict[str, set[str]] = {}
    for run in runs:
        names.setdefault(run.recipe.precision, set()).add(run.name)
    if len(names) == 1:
        return None
    listed = "; ".join(f"{precision}: {', '.join(sorted(names[precision]))}" for precision in sorted(names))
    return f"the runs differ in precision ({listed}), which changes their times, and the last digits of their losses"


def _validation_difference(one: FinishedRun, other: FinishedRun) -> str | None:
    ours, theirs = one.validated_on, other.validated_on
    if ours.split_hash != theirs.split_hash:
        return f"texts or vocabularies ({one.recipe.data.corpus}, {other.recipe.data.corpus})"
    if ours != theirs:
        return (
            f"rows ({ours.rows} of {ours.tokens} tokens, {theirs.rows} of {theirs.tokens}; validation.rows, and "
            "sequence in the last stage)"
        )
    masks = [run.recipe.data.model_dump(exclude={"corpus"}) for run in (one, other)]
    key = next((key for key in masks[0] if masks[0][key] != masks[1][key]), None)
    return f"tasks (data.{key} {masks[0][key]}, {masks[1][key]})" if key else None


def by_recipe(runs: Sequence[FinishedRun]) -> list[tuple[FinishedRun, ...]]:
    """The runs of each recipe (by its name) and budget, in the order of their seeds.

    Raises UserError if two of them are not seeds of one recipe: the same seed twice, or settings that differ.
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
    pairs = zip(one.settings, other.settings, strict=False)
    different = {
        key for ours, theirs in pairs for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)
    } - {"seed"}
    if len(one.recipes) != len(other.recipes):
        different.add("start")
    if different:
        raise UserError(
            f"{one.path} and {other.path} are both {one.name} at {one.budget}, but their "
            f"{', '.join(sorted(different))} differ; train one of them under another name (--set name=...)"
        )
