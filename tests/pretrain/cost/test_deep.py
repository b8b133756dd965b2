"""The work of planning grows with the layers of a model, not with their square."""

import sys
from types import FrameType
from typing import Any

from pretrain.cost.plan import plan_tables
from pretrain.recipe import Recipe, resolve
from tests.support.tiny import tiny_values


def lines_run(layers: int) -> int:
    """Lines of Python that planning a model of so many layers runs: the same on any machine."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    model = dict(layers=layers, hidden=32, heads=4, ffn=64, max_positions=32)
    stages = [
        {"name": "half", "steps": 5, "shape": {"layers": layers // 2}},
        {"name": "all", "steps": 5, "grow": "stack"},
    ]
    recipe = Recipe.model_validate(tiny_values("corpora/tiny", model=model, stages=stages))
    sys.settrace(trace)
    try:
        plan_tables(resolve(recipe, None, 1))
    finally:
        sys.settrace(None)
    return count


def test_planning_a_deep_model_takes_time_in_proportion():
    lines_run(8)  # what is worked out once
    small, large = lines_run(40), lines_run(120)
    assert large < 4 * small
