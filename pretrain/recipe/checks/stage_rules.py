"""Whether the rules that may end or divide a stage can hold, and the keys about its end make sense where they are."""

from collections.abc import Sequence

from growth.operators.saved_state import INITIAL
from model.errors import UserError
from pretrain.checkpoint.store import DAMAGED, LATEST, PARTIAL
from pretrain.recipe.run import ResolvedStage, Run
from pretrain.recipe.schema import Stage
from pretrain.stage_rules.settings import Check, LossCurveRule

RESERVED = (LATEST, INITIAL)
"""Names under `checkpoints/` that a stage cannot use for its own state."""
RESERVED_ENDINGS = (PARTIAL, DAMAGED)
"""Of folders there that the next start may remove."""


def check_ends(stages: Sequence[ResolvedStage]) -> None:
    """Raises UserError for a rule that can never hold, or after which the later stages could not begin."""
    for stage, following in zip(stages, [*stages[1:], None], strict=True):
        for fault in (_fault_of_until(stage, following), _fault_of_split(stage, stages)):
            if fault is not None:
                raise UserError(f"stage {stage.name}: {fault}")


def check_lengths(run: Run) -> None:
    """Raises UserError for a rule that needs more steps than its stage has, in a run measured in steps."""
    if run.unit != "steps":
        return
    for stage in run.stages:
        rules = {f"until.{name}": rule for name, rule in stage.until or () if isinstance(rule, Check)}
        rules |= {"split": stage.split} if stage.split else {}
        for key, rule in rules.items():
            warm_at = run.learning_rate.warm_at(stage.start)
            climb = max(warm_at - stage.start, 0) if isinstance(rule, LossCurveRule) else 0
            earliest = climb + rule.least_steps
            if earliest >= stage.length:
                lower = f"{'the warm-up or ' if climb else ''}{key}.{rule.longest}"
                raise UserError(
                    f"stage {stage.name}: {_as_asked(key, run, stage)} can hold only after {earliest:,.0f} steps, and "
                    f"the stage has {stage.length:,.0f}; lower {lower}, or give the stage more steps"
                )


def check_keys(stages: Sequence[Stage], unit: str) -> None:
    """Raises UserError for a key that makes no sense in its stage."""
    if stages[0].grow_when:
        raise UserError(
            f"stage {stages[0].name}: the first stage has no stage before it to wait for; remove its grow_when"
        )
    for stage in stages:
        if unit == "seconds" and stage.until and stage.until.hours:
            raise UserError(f"stage {stage.name}: until.hours is for runs measured in steps; give the stage hours")
    names = [stage.keep for stage in stages if stage.keep]
    for name in names:
        if name in RESERVED or name.startswith("step-") or names.count(name) > 1:
            raise UserError(f"keep {name!r} is the name of another checkpoint; choose a different one")
        if name.endswith(RESERVED_ENDINGS):
            raise UserError(f"keep {name!r} ends like an unfinished or damaged checkpoint; choose another name")


def _as_asked(key: str, run: Run, stage: ResolvedStage) -> str:
    """The key as the recipe gives it: `until.auto` may come from `grow_when` of the next stage."""
    until = run.recipe.stages[stage.index].until
    if key == "until.auto" and (until is None or until.auto is None):
        return f"grow_when of stage {run.stages[stage.index + 1].name}"
    return key


def _fault_of_until(stage: ResolvedStage, following: ResolvedStage | None) -> str | None:
    if stage.until is None:
        return None
    if following is None:
        return "the last stage takes the rest of the run, so nothing can end it early; remove its until"
    if stage.until.gradient_correlation and stage.config.sharing is None:
        return "until.gradient_correlation: no layers share a block here, so there is nothing to compare; remove it"
    if stage.until.ticket_distance:
        if stage.config.slimming is None:
            return "until.ticket_distance needs learned coefficients; give the model slimming"
        if not any(operator.prunes_by_coefficients for operator in following.grow):
            return (
                "until.ticket_distance compares what the next stage would prune, but that stage prunes nothing by "
                "coefficients; add prune_heads or prune_neurons to its grow"
            )
    return None


def _fault_of_split(stage: ResolvedStage, stages: Sequence[ResolvedStage]) -> str | None:
    if stage.split is None:
        return None
    if stage.config.sharing is None:
        return "split: no layers share a block here, so there is nothing to split; remove it"
    if stage.until and stage.until.gradient_correlation:
        return "split and until.gradient_correlation both act on the same correlations; give one of them"
    for later in stages[stage.index + 1 :]:
        if later.grow and later.grow[0].gives_each_layer_its_own_block(later.shape):
            return None
        if later.grow or "sharing" in later.shape:
            return (
                f"split: the groups are not known beforehand, so stage {later.name} has to begin with grow: unshare, "
                "without shape.sharing"
            )
    return None
