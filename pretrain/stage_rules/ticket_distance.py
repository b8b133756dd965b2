"""`until: ticket_distance`: what the next stage would prune hardly changes any more.

Chen et al. 2021 (EarlyBERT, arXiv 2101.00063): the search is over when the Hamming distance between consecutive masks
stays small. The mask is the ticket that the next stage's own operators would draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from pretrain.settings.values import Number, Positive, PositiveAmount
from pretrain.stage_rules.base import Check, Verdict, Watch
from pretrain.stage_rules.view import RunView, StageView, TrainingView

if TYPE_CHECKING:
    from torch import Tensor

    from growth.operators.base import Ticket
    from model.config import BertConfig


class TicketDistance(Check):
    key: ClassVar[str] = "ticket_distance"

    below: Annotated[Number, Field(gt=0, le=1)] = 0.02
    """End the stage when less than this fraction of the heads and neurons to prune has changed since the last check."""
    every: PositiveAmount = 20
    """Check every N steps."""
    checks: Positive = 3
    """Act once the rule has held at N consecutive checks."""

    @property
    def least_steps(self) -> int:
        """The first check has no earlier ticket to compare with."""
        return self.steps_between * (self.checks + 1)

    def words(self) -> str:
        return f"less than {self.below:.1%} of the units to prune change{self.checks_in_words()}"

    def fault(self, stage: StageView, run: RunView) -> str | None:
        if stage.config.slimming is None:
            return "until.ticket_distance needs learned coefficients; give the model slimming"
        if not any(operator.prunes_by_coefficients for operator in run.stages[stage.index + 1].grow):
            return (
                "until.ticket_distance compares what the next stage would prune, but that stage prunes nothing by "
                "coefficients; add prune_heads or prune_neurons to its grow"
            )
        return None

    def watch(self, training: TrainingView) -> Watch:
        return TicketSettles(self, training)


class TicketSettles(Watch):
    def __init__(self, rule: TicketDistance, training: TrainingView):
        super().__init__(rule.key, rule.steps_between, rule.checks)
        self.below, self.config = rule.below, training.stage.config
        self.following = training.run.stages[training.stage.index + 1]
        self.last: Ticket | None = None

    def check(self, training: TrainingView) -> Verdict:
        from pretrain.engine.coefficients import coefficients

        before, self.last = self.last, draw(self.config, self.following, coefficients(training.engine))
        if before is None:
            return Verdict.of(False)
        distance = changed_part(before, self.last)
        return Verdict.of(distance < self.below, distance=distance, ticket=shown(self.last))

    def state(self) -> dict[str, Any]:
        return super().state() | {"last": None if self.last is None else ticket_to_json(self.last)}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.last = None if state["last"] is None else ticket_from_json(state["last"])


def draw(config: BertConfig, following: StageView, held: Mapping[str, Tensor]) -> Ticket:
    """The ticket of the next stage's operators, from the coefficients by parameter name."""
    ticket: Ticket = {}
    for operator in following.grow:
        ticket |= operator.ticket(config, following.shape.limited_to(operator.changes), held)
    return ticket


def shown(ticket: Ticket) -> dict[str, dict[str, Any]]:
    """For the metrics, by axis and block: for every head 1 if it stays, else 0; of the many neurons, the fraction."""
    values: dict[str, dict[str, Any]] = {}
    for (axis, block), stays in ticket.items():
        units = [int(stay) for stay in stays]
        values.setdefault(axis, {})[str(block)] = units if axis == "heads" else sum(units) / len(units)
    return values


def changed_part(before: Ticket, after: Ticket) -> float:
    """The Hamming distance of two tickets over their length."""
    pairs = [pair for place in before for pair in zip(before[place], after[place], strict=True)]
    return sum(old != new for old, new in pairs) / len(pairs)


def ticket_to_json(ticket: Ticket) -> dict[str, str]:
    """{"heads 0": "1011"}: 1 for each unit that stays."""
    return {f"{axis} {block}": "".join("01"[stay] for stay in stays) for (axis, block), stays in ticket.items()}


def ticket_from_json(held: Mapping[str, str]) -> Ticket:
    ticket: Ticket = {}
    for place, units in held.items():
        axis, block = place.split()
        ticket[axis, int(block)] = tuple(unit == "1" for unit in units)
    return ticket
