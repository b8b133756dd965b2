"""How much of a step's FLOPs the optimizer takes: they do not depend on the batch, so a small one hardly pays."""

import math
from collections.abc import Iterator

from pretrain.cost.savings import stage_flops
from pretrain.recipe import Run

SMALL = 0.1
"""A share that one need not care about."""


def step_shares(run: Run) -> Iterator[str]:
    """A line for each stage whose optimizer multiplies matrices."""
    for stage in run.stages:
        optimizer = stage.optimizer.chosen
        of_step = optimizer.step_flops(stage.config)
        if of_step:
            total = stage_flops(stage)
            of_row = (total - of_step) / stage.global_batch
            enough = math.floor(of_step * (1 / SMALL - 1) / of_row) + 1
            yield (
                f"{stage.name}: {optimizer.name} itself takes {of_step:.3g} FLOP a step, {of_step / total:.1%} of all; "
                f"below {SMALL:.0%} from {enough:,} rows of {stage.sequence} tokens"
            )
