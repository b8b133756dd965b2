"""`until: {ticket_distance: {below: X}}`: what would be pruned now hardly differs from what would have been before.

Chen et al. 2021 (EarlyBERT, arXiv 2101.00063): the search is over when the Hamming distance between masks drawn one
after the other stays small. The mask is the ticket that the next stage's own operators would draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from growth.operators.prune import Prune
from pretrain.engine.coefficients import coefficients
from pretrain.stage_rules.base import Rule, Verdict
from pretrain.stage_rules.settings import TicketDistance
from pretrain.training.events import TrainerView

if TYPE_CHECKING:
    from model.config import BertConfig
    from pretrain.recipe import ResolvedStage, Run

Mask = dict[str, str]
"""`1` for each unit that stays and `0` for each that goes, by axis and block."""


class TicketSettles(Rule):
    def __init__(self, name: str, settings: TicketDistance, run: Run, stage: ResolvedStage):
        super().__init__(name, settings.every, settings.checks)
        self.below, self.config, self.following = settings.below, stage.config, run.stages[stage.index + 1]
        self.last: Mask | None = None

    def check(self, trainer: TrainerView) -> Verdict:
        before, self.last = self.last, draw(self.config, self.following, coefficients(trainer.engine))
        if before is None:
            return Verdict.of(False)
        distance = changed_part(before, self.last)
        return Verdict.of(distance < self.below, distance=distance, ticket=shown(self.last))

    def state(self) -> dict[str, Any]:
        return super().state() | {"last": self.last}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.last = state["last"]


def draw(config: BertConfig, following: ResolvedStage, held: Mapping[str, Tensor]) -> Mask:
    """The ticket of the next stage's operators, from the coefficients by parameter name."""
    mask: Mask = {}
    for operator in following.grow:
        if isinstance(operator, Prune) and operator.prunes_by_coefficients:
            branch = {"heads": "attention", "ffn": "feedforward"}[operator.axis]
            scores = [held[f"blocks.{block}.{branch}.coefficients"] for block in range(config.num_blocks)]
            wanted = following.shape.limited_to(operator.changes)
            for block, units in operator.ticket(config, wanted, scores.__getitem__).items():
                stays = set(units.tolist())
                mask[f"{operator.axis} {block}"] = "".join("01"[unit in stays] for unit in range(len(scores[block])))
    return mask


def shown(mask: Mask) -> dict[str, dict[str, Any]]:
    """By axis and block: of every head whether it stays, 1 or 0; of the many neurons the part that does."""
    values: dict[str, dict[str, Any]] = {}
    for place, stays in mask.items():
        axis, block = place.split()
        units = [int(unit) for unit in stays]
        values.setdefault(axis, {})[block] = units if axis == "heads" else sum(units) / len(units)
    return values


def changed_part(before: Mask, after: Mask) -> float:
    """The Hamming distance of two masks over their length."""
    pairs = [pair for block in before for pair in zip(before[block], after[block], strict=True)]
    return sum(old != new for old, new in pairs) / len(pairs)
