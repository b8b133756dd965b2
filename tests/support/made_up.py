"""Recipes of runs that never ran."""

from typing import Any

from pretrain.compare.run_files import ValidationRows
from pretrain.recipe import Recipe

VALIDATION = ValidationRows(rows=8, tokens=128, split_hash="text")
MODEL = {"layers": 4, "hidden": 128, "heads": 2, "ffn": 512}


def made_up_recipe(name: str, steps: int, seed: int = 0, model: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """The target in one stage, where `model` and `changes` do not say otherwise."""
    values = {
        "name": name,
        "steps": steps,
        "seed": seed,
        "model": MODEL | (model or {}),
        "data": {"corpus": "none"},
        "optimizer": {"lr": 1e-3},
        "batch": {"global": 4},
        "stages": [{"name": "full"}],
    }
    return Recipe.model_validate(values | changes)
