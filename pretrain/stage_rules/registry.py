"""The rules that may end a stage early or divide it, one file for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretrain.recipe.run import SECONDS_PER_HOUR
from pretrain.stage_rules.amount import Amount
from pretrain.stage_rules.auto import NextStagePays
from pretrain.stage_rules.base import Rule, Verdict, count_agreement
from pretrain.stage_rules.gradient_correlation import LayersDisagree, PairsDisagree
from pretrain.stage_rules.loss import LossBelow
from pretrain.stage_rules.loss_slope import LossSlope
from pretrain.stage_rules.ticket_distance import TicketSettles

if TYPE_CHECKING:
    from pretrain.checkpoint.progress import Progress
    from pretrain.recipe import ResolvedStage, Run

__all__ = ["Rule", "Verdict", "count_agreement", "rules_of"]


def rules_of(run: Run, stage: ResolvedStage, progress: Progress) -> list[Rule]:
    """The rules of a stage, at its beginning."""
    rules: list[Rule] = []
    until = stage.until
    if until is not None:
        if until.tokens:
            rules.append(Amount("tokens", until.tokens, lambda progress: progress.num_tokens, progress))
        if until.hours:
            seconds = until.hours * SECONDS_PER_HOUR
            rules.append(Amount("hours", seconds, lambda progress: progress.train_seconds, progress))
        if until.loss:
            rules.append(LossBelow("loss", until.loss))
        if until.loss_slope:
            rules.append(LossSlope("loss_slope", until.loss_slope, run, stage))
        if until.auto:
            rules.append(NextStagePays("auto", until.auto, run, stage))
        if until.gradient_correlation:
            rules.append(LayersDisagree("gradient_correlation", until.gradient_correlation))
        if until.ticket_distance:
            rules.append(TicketSettles("ticket_distance", until.ticket_distance, run, stage))
    if stage.split and stage.config.sharing is not None:  # groups that have split to the end are left alone
        rules.append(PairsDisagree("split", stage.split))
    return rules
