"""Rules that end a stage before its length is over, one file each, and this list. `until.py` makes the recipe's keys of
it. `split.py` is the rule that divides a stage; it has its own key."""

from pretrain.stage_rules.auto import Auto
from pretrain.stage_rules.base import StageRule
from pretrain.stage_rules.gradient_correlation import GradientCorrelation
from pretrain.stage_rules.hours import Hours
from pretrain.stage_rules.loss import Loss
from pretrain.stage_rules.loss_slope import LossSlope
from pretrain.stage_rules.mixing import Mixing
from pretrain.stage_rules.ticket_distance import TicketDistance
from pretrain.stage_rules.tokens import Tokens

STAGE_RULES: tuple[type[StageRule], ...] = (
    *(Tokens, Hours, Loss, LossSlope, Auto, Mixing, GradientCorrelation, TicketDistance),
)
