"""The noise of `widen` and `auto` where a recipe leaves it out: today's default, or none in a run begun before it.

Widening once made exact copies by default. So a run records the noise of its operators, and one that has recorded none
is continued without.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from growth.operators.widen import Widen
from pretrain.recipe.operators import AUTO
from pretrain.recipe.schema import Recipe

Place = tuple[int, int, str]
"""An operator of a recipe: the number of its stage, its number in `grow`, and its name."""


def with_noise(recipe: Recipe, held: Recipe | None = None) -> Recipe:
    """The recipe with the noise of every operator: its own, else that of the run which it resumes (`held`, as
    `as_recorded` gives it), else the default."""
    recorded = {place: options["noise"] for place, options in _operators(held).items()} if held else {}

    def unset(place: Place, options: Mapping[str, Any]) -> float | None:
        try:
            default = Widen(**({} if place[2] == AUTO else options)).strength
        except ValidationError:  # which `resolve` explains
            default = None
        return recorded.get(place, default)

    return _completed(recipe, unset)


def as_recorded(recipe: Recipe) -> Recipe:
    """The recipe in the folder of a run: noise that was not recorded there was not added."""
    return _completed(recipe, lambda place, options: 0.0)


def _operators(recipe: Recipe) -> dict[Place, dict[str, Any]]:
    """Those that take noise by default, with their options."""
    return {
        (number, index, name): options
        for number, stage in enumerate(recipe.stages)
        for index, operators in enumerate(stage.grow)
        for name, options in operators.items()
        if name in (Widen.name, AUTO)
    }


def _completed(recipe: Recipe, unset: Callable[[Place, Mapping[str, Any]], float | None]) -> Recipe:
    """The recipe with the noise `unset(place, options)` for every operator that has none."""
    changed = recipe.model_copy(deep=True)
    for place, options in _operators(changed).items():
        if options.get("noise") is None:
            options["noise"] = unset(place, options)
    return changed
