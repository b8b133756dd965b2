"""`until: mixing`: the model grows as late as it can and still catch up with one that had its full shape all along.

2511.04981: once grown, a small model comes close to the loss of such a model within the *mixing time*, wherever in the
run it grows. So it grows that long before the end. Two pilots measure the time before the run begins, from its own
first steps: one has the full shape, the other begins small and grows after `hop` steps. Both read the rows of the run
and stay at its peak learning rate. The second has caught up once

    mean loss of the second  <=  (1 + tolerance) mean loss of the first

over `window` steps, all after the hop, of which those count where both losses are finite. How long pilots are, the
tolerance and the window are our choice. The run counts what both have cost (pretrain/recipe/pilots.py,
pretrain/training/mixing.py).
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import isfinite
from typing import Annotated, ClassVar

from pydantic import Field
from typing_extensions import Self

from pretrain.settings.values import Amount, Number, PositiveAmount, Section, Share
from pretrain.stage_rules.base import StageRule
from pretrain.stage_rules.view import RunView, StageView


class Mixing(StageRule, Section):
    key: ClassVar[str] = "mixing"
    in_hours: ClassVar[bool] = False

    steps: PositiveAmount = Share(10)
    """Steps of each of the two pilots. If the second does not catch up in them, the stage keeps its length."""
    hop: PositiveAmount = Share(3)
    """Steps after which the second pilot grows: more than the warmup has."""
    tolerance: Annotated[Number, Field(ge=0)] = 0.005
    """How far the loss of the second pilot may be above that of the first when it has caught up, as a share of it."""
    window: PositiveAmount = Share(0.2)
    """Compare means of both losses over N steps."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """`steps`, `hop` and `window`. Asked only after `in_steps`."""
        assert isinstance(self.steps, int) and isinstance(self.hop, int) and isinstance(self.window, int)
        return self.steps, self.hop, self.window

    @property
    def least_steps(self) -> int:
        """A run as short as its pilots has nothing to learn from them."""
        return self.counts[0]

    @property
    def longest(self) -> str:
        return "steps"

    def in_steps(self, count: Callable[[Amount], int]) -> Self:
        lengths = {name: max(count(getattr(self, name)), 1) for name in ("steps", "hop", "window")}
        return self.model_copy(update=lengths)

    def words(self) -> str:
        num_steps, hop, _ = self.counts
        return f"as much is left as two pilots of {num_steps:,} steps need to meet, of which one grows after {hop:,}"

    def fault(self, stage: StageView, run: RunView) -> str | None:
        num_steps, hop, window = self.counts
        if stage.index > 0:
            return "until.mixing is for the first stage, since its pilots begin as the run does; remove it here"
        if not run.stages[1].grow:
            return f"until.mixing dates a change of shape, and stage {run.stages[1].name} has no grow; remove it"
        if hop + window > num_steps:
            return (
                f"until.mixing.hop {hop:,} leaves less than its window ({window:,} steps) of pilots of {num_steps:,} "
                "steps; lower hop, or raise steps"
            )
        warm_at = run.learning_rate.warm_at(stage.start)
        if hop <= warm_at:
            return (
                f"until.mixing.hop {hop:,} is not after the warmup ({warm_at:g} steps), so its pilot would grow before "
                "the peak of the learning rate; raise hop, or lower schedule.warmup"
            )
        return None

    def applies(self, stage: StageView) -> bool:
        """Nothing: what the pilots have measured ends the stage before its first step."""
        return False


def mixing_time(whole: Sequence[float], grown: Sequence[float], hop: int, window: int, tolerance: float) -> int | None:
    """Steps from the hop until the losses of the pilot that has `grown` meet those of the one that was `whole` all
    along; None: they have not met. A step in which either has no finite loss counts for neither."""
    excess = [ours - (1 + tolerance) * other for ours, other in zip(grown, whole, strict=False)]
    sums = [0.0, *accumulate(value if isfinite(value) else 0.0 for value in excess)]
    counts = [0, *accumulate(map(isfinite, excess))]
    for end in range(hop + window, len(excess) + 1):
        if counts[end] > counts[end - window] and sums[end] <= sums[end - window]:
            return end - hop
    return None
