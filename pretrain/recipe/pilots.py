"""The two pilots of `until: mixing`, as recipes of their own: both begin as the run does."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from model.errors import UserError
from pretrain.recipe.library import laid_over
from pretrain.recipe.load import explained
from pretrain.recipe.run import ResolvedStage, Run
from pretrain.recipe.schema import Recipe
from pretrain.recipe.timeline import in_ticks
from pretrain.stage_rules.mixing import Mixing

WHOLE, GROWN = "whole", "grown"
OF_THE_RUN = ("until", "grow_when", "split", "keep", "steps", "hours", "schedule", "grow")
"""Keys of a stage that say nothing of its pilots, or not in their steps."""


def mixing_rule(run: Run) -> Mixing | None:
    """The rule by which pilots date the first change of shape."""
    until = run.stages[0].until
    return until.mixing if until else None


def pilot_steps(run: Run) -> dict[int, int]:
    """Steps that both pilots together take as each of the first two stages, by its index; empty without pilots."""
    rule = mixing_rule(run)
    if rule is None:
        return {}
    num_steps, hop, _ = rule.counts
    return {0: hop, 1: 2 * num_steps - hop}


def pilots(run: Run) -> dict[str, Recipe]:
    """By name; none where nothing asks for them. `whole` has the shape of the second stage all along, `grown` begins
    with the first and grows into it. Neither leaves the peak of the learning rate.

    Raises UserError for a run that pilots cannot be the beginning of.
    """
    rule = mixing_rule(run)
    if rule is None:
        return {}
    recipe, (first, second) = run.recipe, run.stages[:2]
    clashes = {
        "start": (recipe.start is not None, "pilots begin with fresh weights"),
        "faults.min_nodes": (recipe.faults.min_nodes is not None, "pilots keep their nodes"),
        "masking.end": (
            any(stage.mask_rate.first != stage.mask_rate.last for stage in (first, second)),
            "a pilot is not as long as the stage over which its rate falls",
        ),
        "schedule.restart": (second.restart is not None, "pilots have one peak of the learning rate"),
        "schedule.lr_scale": (first.lr_scale != second.lr_scale, "pilots have one peak of the learning rate"),
        "align": (any(stage.align for stage in (first, second)), "a pilot has no teacher"),
        "mask_growth": (second.config.unfinished is not None, "its pilot has the full shape all along"),
    }
    for key, (is_used, reason) in clashes.items():
        if is_used:
            raise UserError(f"until.mixing does not go with {key}: {reason}; leave one of them out")
    num_steps, hop, _ = rule.counts
    small, grown = (_values(recipe, stage) for stage in (first, second))
    shapes = [stage.config.model_dump(mode="json") for stage in (first, second)]
    changed = {name: value for name, value in shapes[1].items() if value != shapes[0][name]}
    grow = [{each.name: each.model_dump(mode="json", exclude_defaults=True)} for each in second.grow]
    shape, schedule = small["shape"] | changed, small["schedule"]
    whole = laid_over(small, grown) | {"steps": num_steps, "shape": shape, "schedule": schedule}
    is_read = any(first.keep in operator.saved_states_read for operator in second.grow)
    begun = small | {"steps": hop, "keep": first.keep if is_read else None}
    stages = {WHOLE: [whole], GROWN: [begun, grown | {"steps": num_steps - hop, "grow": grow}]}
    return {name: _pilot(run, name, num_steps, of_pilot) for name, of_pilot in stages.items()}


def _values(recipe: Recipe, stage: ResolvedStage) -> dict[str, Any]:
    """A stage as the recipe gives it, with its own part of the schedule in steps. No nulls that mean `as before`: they
    would hide what the stage below gives."""
    values = _given(json.loads(recipe.stages[stage.index].model_dump_json(by_alias=True)))
    for section in ("masking", "batch", "layout"):
        values[section] = _given(values[section])
    schedule = {
        "rewarm": int(stage.rewarm),
        "lr_scale": stage.lr_scale,
        "new_units": stage.new_unit_rate.model_dump(mode="json"),
    }
    return {key: value for key, value in values.items() if key not in OF_THE_RUN} | {"schedule": schedule}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _pilot(run: Run, name: str, num_steps: int, stages: list[dict[str, Any]]) -> Recipe:
    """Nobody is told of it, and it is validated at its ends alone."""
    recipe = run.recipe
    values = json.loads(recipe.model_dump_json(by_alias=True))
    warmup = int(in_ticks(recipe.schedule.warmup, run.end, "steps", "schedule.warmup"))
    own = {
        "name": f"{recipe.name}-{name}",
        "paper": None,
        "steps": num_steps,
        "schedule": {"shape": "constant", "warmup": warmup},
        "validation": {"every": 0},
        "checkpoint": {"memory_every": 0},
        "faults": {"notify": None},
        "trackers": [],
        "stages": stages,
    }
    with naming(name), explained(Recipe):
        return Recipe.model_validate(laid_over(values | {"schedule": {}}, own))


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Inside, a UserError says of which pilot it tells."""
    try:
        yield
    except UserError as fault:
        raise UserError(in_pilot(name, fault)) from None


def in_pilot(name: str, fault: UserError) -> str:
    return f"until.mixing: pilot {name}: {fault}"
