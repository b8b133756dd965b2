"""How many of the ranks that are there a run can use.

Nodes come and go under a run with `faults.min_nodes`; its global batch, data, schedule and stages stay. Accumulation
and layout follow the ranks. Some ranks stay idle where their number does not divide.
"""

from pretrain.recipe.inherited import Inherited
from pretrain.recipe.schema import Recipe


def usable_ranks(recipe: Recipe, num_ranks: int) -> int:
    """The most ranks, up to `num_ranks`, among which every stage divides; all where nodes do not come and go, or where
    no number divides."""
    if recipe.faults.min_nodes is None:
        return num_ranks
    numbers = range(num_ranks, 0, -1)
    return next((number for number in numbers if all(_divides(number, *stage) for stage in _stages(recipe))), num_ranks)


def idle_ranks(recipe: Recipe, num_ranks: int) -> str | None:
    """What is said of ranks that the run cannot use; None where it uses all."""
    used = usable_ranks(recipe, num_ranks)
    if used == num_ranks:
        return None
    rows = ", ".join(dict.fromkeys(str(rows) for rows, _ in _stages(recipe)))
    return (
        f"batch.global {rows} cannot be shared out evenly among {num_ranks} ranks: "
        f"{used} train, idle: {num_ranks - used}"
    )


def _divides(num_ranks: int, rows: int, tensor_parallel: int) -> bool:
    return num_ranks % tensor_parallel == 0 and rows % (num_ranks // tensor_parallel) == 0


def _stages(recipe: Recipe) -> list[tuple[int, int]]:
    """Rows of the global batch and tensor-parallel ranks of every stage."""
    found, inherited = [], Inherited.of_run(recipe)
    for stage in recipe.stages:
        inherited = inherited.for_stage(stage, recipe)
        found.append((inherited.batch.rows, inherited.layout.tensor_parallel))
    return found
