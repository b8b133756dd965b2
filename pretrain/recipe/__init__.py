"""A run is data: a recipe is a validated file, and `resolve` turns it into stages that can be trained as they stand."""

from pretrain.recipe.load import load_recipe
from pretrain.recipe.resolve import ResolvedStage, Run, resolve
from pretrain.recipe.schema import Recipe

__all__ = ["Recipe", "ResolvedStage", "Run", "load_recipe", "resolve"]
