"""The work of planning grows with the layers of a model and with the stages of a run, not with their squares."""

import sys
from types import FrameType
from typing import Any

from pretrain.cost.plan import plan_tables
from pretrain.recipe import Recipe, resolve
from tests.support.tiny import tiny_values


def lines_run(layers: int, stages: list[dict[str, Any]]) -> int:
    """Lines of Python that planning a model of so many layers runs: the same on any machine."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    model = dict(layers=layers, hidden=32, heads=4, ffn=64, max_positions=32)
    recipe = Recipe.model_validate(tiny_values("corpora/tiny", model=model, stages=stages))
    sys.settrace(trace)
    try:
        plan_tables(resolve(recipe, None, 1))
    finally:
        sys.settrace(None)
    return count


def of_layers(layers: int) -> int:
    half = {"name": "half", "steps": 5, "shape": {"layers": layers // 2}}
    return lines_run(layers, [half, {"name": "all", "steps": 5, "grow": "stack"}])


def of_stages(number: int) -> int:
    first, *others = ({"name": f"s{index}", "steps": 1, "shape": {"ffn": 64 + index}} for index in range(number))
    return lines_run(6, [first, *(stage | {"grow": "widen"} for stage in others)])


def test_planning_a_deep_model_takes_time_in_proportion():
    of_layers(8)  # what is worked out once
    small, large = of_layers(40), of_layers(120)
    assert large < 4 * small


def test_so_does_planning_many_stages():
    """Each has a shape of its own, about which several tables ask."""
    of_stages(5)
    small, large = of_stages(25), of_stages(75)
    assert large < 3.5 * small
