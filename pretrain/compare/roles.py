"""The role of each run in a comparison: the target from scratch, a small model, or a method.

From scratch means one stage from random weights: one shape and one row length throughout, in one run or in one that
continues the state of another, as decays from a constant rate do. Anything else is a method, whether its shape changes
or not: short rows first, a shared block, dropped layers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, get_args

from model.errors import UserError, nearest
from pretrain.compare.runs import FinishedRun, by_recipe
from pretrain.recipe import Recipe
from pretrain.recipe.shares import counted, row_length, whole_model
from pretrain.runs.folder import without

Role = Literal["from scratch", "method", "small"]
ROLES: tuple[Role, ...] = get_args(Role)
SIZES = ("layers", "hidden", "heads", "head_dim", "ffn")
"""Fields in which a small model may differ from the target."""
NAME_SEED_AND_BUDGET = (
    *(("name",), ("seed",), ("steps",), ("hours",)),
    *(("stages", "name"), ("stages", "steps"), ("stages", "hours")),
)
RATES = (("optimizer", "lr"), ("schedule",), ("stages", "optimizer", "lr"), ("stages", "schedule"))
"""Settings that each size tunes for itself."""


@dataclass(frozen=True)
class Contender:
    """One recipe at one budget, under several seeds."""

    name: str
    """The recipe's name, with the budget if the recipe has several here."""
    role: Role
    runs: tuple[FinishedRun, ...]

    @property
    def losses(self) -> list[float]:
        return [run.valid_loss for run in self.runs]


def contenders(runs: Sequence[FinishedRun], baseline: Sequence[str] = ()) -> list[Contender]:
    """Groups runs by recipe and budget, and assigns roles.

    `baseline` names the recipes to measure against. By default these are the one-stage runs whose shape and row length
    other runs end in, or, if all runs have one stage, the runs of the most expensive model. A small model is trained
    like the baseline with fewer FLOPs per token. All others are methods, which may end in
    another shape (pruned, or larger).

    Raises UserError if no run trains the target from scratch, or if several candidates differ.
    """
    if not runs:
        raise UserError("compare needs runs; name folders under runs/")
    full = _named(runs, baseline) if baseline else _from_scratch(runs)
    least, ways = min(map(_flops_a_token, full)), [_way(run) for run in full]

    def role(run: FinishedRun) -> Role:
        if run in full:
            return "from scratch"
        return "small" if _flops_a_token(run) < least and _way(run) in ways else "method"

    groups = by_recipe(runs)
    names = [group[0].name for group in groups]

    def label(run: FinishedRun) -> str:
        return run.name if names.count(run.name) == 1 else f"{run.name}, {run.budget}"

    return [Contender(label(group[0]), role(group[0]), group) for group in groups]


def sizes_from_scratch(found: Sequence[Contender]) -> list[Contender]:
    """All that are trained as the baseline is, at whatever size: what one could train instead, larger ones included."""
    ways = [_way(contender.runs[0]) for contender in found if contender.role == "from scratch"]
    return [contender for contender in found if _way(contender.runs[0]) in ways]


def _named(runs: Sequence[FinishedRun], baseline: Sequence[str]) -> list[FinishedRun]:
    names = sorted({run.name for run in runs})
    for name in baseline:
        if name not in names:
            raise UserError(
                f"baseline {name!r}: no run of that recipe{nearest(name, names)}; there are {_listed(names)}"
            )
    return [run for run in runs if run.name in baseline]


def _from_scratch(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    plain = [run for run in runs if _is_plain(run)]
    ends = {_end(run) for run in runs if not _is_plain(run)} or {_end(max(plain, key=_flops_a_token))}
    targets = sorted(ends & {_end(run) for run in plain})
    if not targets:
        raise UserError(
            f"no run trains the target ({_listed(map(_in_words, ends))}) from scratch, in one stage; add one, at "
            "several budgets if you can, or name the recipe to measure against by --baseline"
        )
    if len(targets) > 1:
        raise UserError(
            f"the runs end in different targets ({_listed(map(_in_words, targets))}); compare them one by one"
        )
    full = [run for run in plain if _end(run) == targets[0]]
    if len({_recipe_at_any_budget(run) for run in full}) > 1:
        raise UserError(
            f"different recipes train the target from scratch ({_listed({run.name for run in full})}); name the one to "
            "measure against by --baseline"
        )
    return full


def _is_plain(run: FinishedRun) -> bool:
    firsts = [recipe.stages[0] for recipe in run.recipes if len(recipe.stages) == 1]
    has_one_stage = len(firsts) == len(run.recipes) and all(one.split is None and one.align is None for one in firsts)
    return has_one_stage and len(_way(run)) == 1 and run.recipes[0].start is None


def _end(run: FinishedRun) -> tuple[str, int, str]:
    """The shape, the tokens in a row and the objective that a run ends with."""
    asked = [stage.objective for stage in run.recipe.stages if stage.objective]
    return run.shape, _row_lengths(run.recipe)[-1], (asked or ["mlm"])[-1]


def _row_lengths(recipe: Recipe) -> list[int]:
    """Of every stage."""
    lengths = [recipe.sequence]
    for stage in recipe.stages:
        lengths.append(row_length(stage.sequence, recipe.sequence) or lengths[-1])
    return lengths[1:]


def _flops_a_token(run: FinishedRun) -> float:
    return run.costs["flops"] / run.costs["tokens"]


def _way(run: FinishedRun) -> list[dict[str, Any]]:
    """What a run does, but for sizes, budget and rates. A decay goes the way of what it continues."""
    ways = [way for way, _ in groupby(map(_one_way, run.recipes, run.settings))]
    return [*ways, {"grown": True}] if run.before and run.before.was_grown else ways


def _one_way(recipe: Recipe, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with the first shape and rows in counts."""
    way = without(settings, (*NAME_SEED_AND_BUDGET, *RATES, ("sequence",), ("stages", "sequence")))
    whole = whole_model(way["model"])
    first = whole | counted(way["stages"][0].pop("shape"), whole)
    model = {field: value for field, value in first.items() if field not in SIZES}
    return way | {"model": model, "rows": _row_lengths(recipe)}


def _recipe_at_any_budget(run: FinishedRun) -> str:
    recipes = [without(settings, NAME_SEED_AND_BUDGET) for settings in run.settings]
    return json.dumps(recipes, sort_keys=True)


def _in_words(end: tuple[str, int, str]) -> str:
    shape, tokens, objective = end
    return f"{shape}, rows of {tokens}" + (f", objective {objective}" if objective != "mlm" else "")


def _listed(words: Any) -> str:
    return "; ".join(sorted(words))
