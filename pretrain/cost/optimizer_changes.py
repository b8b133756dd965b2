"""What carries over where a stage brings another optimizer, as `plan` says it."""

from collections.abc import Iterator
from itertools import pairwise

from growth.carry import starting_over, what_carries
from pretrain.recipe import Run


def optimizer_changes(run: Run) -> Iterator[str]:
    """A line for each stage with another optimizer than the stage before."""
    for previous, stage in pairwise(run.stages):
        before, after = previous.optimizer.chosen, stage.optimizer.chosen
        if not stage.has_other_optimizer(previous):
            continue
        line = f"{stage.name}: {before.name} -> {after.name}: "
        line += what_carries(stage.config, before.averages, after.averages)
        if not stage.rewarm and starting_over(stage.config, before.averages, after.averages):
            line += ", whose first updates are larger than usual: schedule.rewarm makes them small"
        yield line
