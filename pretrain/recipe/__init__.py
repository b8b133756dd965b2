"""A recipe is a validated file; `resolve` turns it into a run, whose stages can be trained as they are."""

from pretrain.recipe.load import load_recipe
from pretrain.recipe.resolve import resolve
from pretrain.recipe.run import ResolvedStage, Run
from pretrain.recipe.schema import Recipe

__all__ = ["Recipe", "ResolvedStage", "Run", "load_recipe", "resolve"]
