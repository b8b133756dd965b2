"""When each stage begins and ends: shares of the run become ticks of its clock."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import UserError
from pretrain.recipe.run import Unit
from pretrain.recipe.schema import Recipe, Stage
from pretrain.settings.values import SECONDS_PER_HOUR, Amount, Share


@dataclass(frozen=True)
class Timeline:
    unit: Unit
    starts: tuple[float, ...]
    """The first tick of each stage."""
    end: float

    def span(self, index: int) -> tuple[float, float]:
        """First tick of a stage, and the first tick after it."""
        start, end = (*self.starts, self.end)[index : index + 2]
        return start, end

    def ticks(self, amount: Amount, key: str) -> float:
        """An amount of the whole run; `key` is where the recipe gives it."""
        return in_ticks(amount, self.end, self.unit, key)

    def steps(self, amount: Amount, key: str) -> int:
        """Steps, which the rules that end a stage count in every run."""
        if isinstance(amount, Share) and self.unit == "seconds":
            raise UserError(
                f"{key}: {amount} of a run measured in hours is not a number of steps; give every (and least, if it "
                "is a share) as a count, such as every: 100"
            )
        return int(in_ticks(amount, self.end, "steps", key))


def in_ticks(amount: float | Share, total: float, unit: Unit, key: str) -> float:
    """An amount in ticks; a share is one of `total` ticks."""
    if isinstance(amount, Share):
        ticks = amount.percent / 100 * total
        return round(ticks) if unit == "steps" else ticks
    if unit == "seconds" and amount:
        raise UserError(f"{key}: this run is measured in hours, so {amount} steps cannot be used; give a share (5%)")
    return amount


def timeline(recipe: Recipe) -> Timeline:
    """Places the stages one after the other. Shares are rounded on the running sum, so that no step is lost."""
    _check_names_and_units(recipe)
    unit: Unit = "seconds" if recipe.hours else "steps"
    total = recipe.hours or recipe.steps or _sum_of_counts(recipe.stages)
    lengths = _lengths(recipe, total, unit)

    starts: list[float] = [0]
    running = 0.0
    for stage, length in zip(recipe.stages, lengths, strict=True):
        running += length
        starts.append(round(running) if unit == "steps" else running * SECONDS_PER_HOUR)
        if starts[-1] <= starts[-2]:
            raise UserError(f"stage {stage.name} {_too_short(stage, length, total, unit)}")
    return Timeline(unit, tuple(starts[:-1]), starts[-1])


def _too_short(stage: Stage, length: float, total: float, unit: Unit) -> str:
    whole = f"{total:g} {'hours' if unit == 'seconds' else 'steps'}"
    if (stage.hours if unit == "seconds" else stage.steps) is None:
        return f"has no time left: the other stages take {total - length:g} of {whole}; shorten one of them"
    return f"is too short: {length:g} of {whole}; lengthen it or remove it"


def _check_names_and_units(recipe: Recipe) -> None:
    if recipe.hours and recipe.steps:
        raise UserError(f"steps {recipe.steps} and hours {recipe.hours:g} both measure the run; give one of them")
    names = [stage.name for stage in recipe.stages]
    for stage in recipe.stages:
        if names.count(stage.name) > 1:
            raise UserError(f"two stages are named {stage.name!r}; give each its own name")
        if (stage.steps if recipe.hours else stage.hours) is not None:
            wrong, right = ("steps", "hours") if recipe.hours else ("hours", "steps")
            raise UserError(f"stage {stage.name} is measured in {wrong}, the run in {right}; use {right} for both")


def _sum_of_counts(stages: Sequence[Stage]) -> int:
    counts = [stage.steps for stage in stages if isinstance(stage.steps, int)]
    if len(counts) < len(stages):
        raise UserError("steps is missing: give the run's total, or every stage a count of steps")
    return sum(counts)


def _lengths(recipe: Recipe, total: float, unit: Unit) -> list[float]:
    """Steps or hours of each stage, not rounded; the stage that gives no length takes what the others leave."""
    amounts = [stage.hours if recipe.hours else stage.steps for stage in recipe.stages]
    lengths = [amount.percent / 100 * total if isinstance(amount, Share) else amount for amount in amounts]
    missing = [index for index, length in enumerate(lengths) if length is None]
    if len(missing) > 1:
        raise UserError(
            f"stages {' and '.join(recipe.stages[index].name for index in missing)} have no length; "
            "only one may take what remains"
        )
    given = sum(length for length in lengths if length is not None)
    if not missing and abs(given - total) > (0.5 if unit == "steps" else 1e-9 * total):
        raise UserError(
            f"the stages add up to {given:g} {'hours' if recipe.hours else 'steps'}, the run has {total:g}; "
            "change one, or leave out one stage's length"
        )
    return [total - given if length is None else length for length in lengths]
