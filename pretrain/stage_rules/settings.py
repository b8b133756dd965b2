"""What may end a stage before its time: the rules of `until`, and of `split`."""

import math
from typing import Annotated, Any

from pydantic import Field, model_validator

from model.errors import UserError
from pretrain.settings.values import Amount, Number, Positive, PositiveAmount, Section, Share


class Check(Section):
    """A rule that looks at the run now and then, and holds when it held so many times in a row."""

    every: PositiveAmount = Share(1)
    """Steps between two checks."""
    checks: Positive = 1
    """So many in a row have to agree."""

    @property
    def least_steps(self) -> int:
        """Steps that it has to see before it can hold, once `every` is a count."""
        return self.every * self.checks

    @property
    def longest(self) -> str:
        """The key that most of these steps come from."""
        return "every"


class Loss(Check):
    below: Number
    """Ends the stage when the mean training loss since the last check is below this."""


class LossCurveRule(Check):
    """A rule on the slope of the training loss, after the (re-)warm-up: one point of the curve for each check."""

    checks: Positive = 2
    """So many in a row have to agree."""
    window: Annotated[int, Field(ge=2)] = 5
    """So many points, or the last third of them if that is more, give the slope."""
    least: Amount = 0
    """Steps of the stage, after its (re-)warm-up, before which it does not end."""
    loss_below: Number | None = None
    """Nor does it end at a loss above this: a slope is small on the bag-of-words plateau, too."""

    @property
    def least_steps(self) -> int:
        """After the (re-)warm-up: the first check has more than `window` points."""
        first = max(self.window + 1, math.ceil(self.least / self.every))
        return self.every * (first + self.checks - 1)

    @property
    def longest(self) -> str:
        return "least" if self.least > self.every * (self.window + 1) else "every"


class LossSlope(LossCurveRule):
    below: Annotated[Number, Field(gt=0)] = 0.052
    """Ends the stage when the loss falls by less than so many nats while the run's FLOPs grow by a factor of e (Shen et
    al. 2022: 0.052 is their optimum for GPT-2, 0.0575 before doubling the depth, 0.0475 before doubling the width)."""


class Auto(LossCurveRule):
    gain: Annotated[Number, Field(gt=0)] = 1.0
    """What a token is expected to bring in the next stage, as a part of what it brought in this one on average."""


class GradientCorrelation(Check):
    below: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """A pair of neighbouring uses of a block is apart when their gradients correlate less than this."""
    every: PositiveAmount = 1000
    """Steps between two checks."""
    checks: Positive = 3
    """So many in a row have to agree."""


class TicketDistance(Check):
    below: Annotated[Number, Field(gt=0, le=1)] = 0.02
    """Ends the stage when the heads and neurons that would be pruned now differ from those at the check before in less
    than this part of all."""
    every: PositiveAmount = 20
    """Steps between two checks."""
    checks: Positive = 3
    """So many in a row have to agree."""

    @property
    def least_steps(self) -> int:
        """The first check has none before it to differ from."""
        return self.every * (self.checks + 1)


class Until(Section):
    """What ends a stage before its steps are over: the first of these."""

    tokens: Positive | None = None
    """Tokens read in the stage, padding not counted."""
    hours: Annotated[Number, Field(gt=0)] | None = None
    """Hours of training in the stage, in a run that is measured in steps."""
    loss: Loss | None = None
    loss_slope: LossSlope | None = None
    auto: Auto | None = None
    gradient_correlation: GradientCorrelation | None = None
    ticket_distance: TicketDistance | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """`auto` is `{auto: {}}`: a rule with its defaults."""
        return {value: {}} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_a_rule(self) -> "Until":
        if all(rule is None for _, rule in self):
            raise UserError(f"names no rule; give one of {', '.join(Until.model_fields)}")
        return self
