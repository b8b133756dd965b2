"""What is left of a run, in FLOPs: its stages differ in what a step costs."""

from typing import Any

from pretrain.cost.savings import stage_flops
from pretrain.recipe import Run


def stages_ahead(run: Run, first: int) -> list[dict[str, Any]]:
    """The stages from number `first` on: name, last tick (`end`), and the FLOPs of a step. The journal keeps them."""
    return [{"name": stage.name, "end": stage.end, "flops": stage_flops(stage)} for stage in run.stages[first:]]


def flops_left(ahead: list[dict[str, Any]], now: float) -> float:
    """After step `now`. A stage that a rule may end early counts in full."""
    total = 0.0
    for stage in ahead:
        total += max(0.0, stage["end"] - now) * stage["flops"]
        now = max(now, stage["end"])
    return total
