"""Whether the rules that may end or divide a stage can hold, and the keys about its end make sense where they are."""

from collections.abc import Sequence

from growth.operators.saved_state import INITIAL
from model.errors import UserError
from pretrain.checkpoint.store import DAMAGED, LATEST, PARTIAL
from pretrain.recipe.run import ResolvedStage, Run
from pretrain.recipe.schema import Stage
from pretrain.stage_rules.until import rules_of

RESERVED = (LATEST, INITIAL)
"""Names under `checkpoints/` that a stage cannot use for its own state."""
RESERVED_ENDINGS = (PARTIAL, DAMAGED)
"""Of folders there that the next start may remove."""


def check_ends(run: Run) -> None:
    """Raises UserError for a rule that can never hold, or after which the later stages could not begin."""
    for stage in run.stages:
        if stage.until and stage is run.stages[-1]:
            raise UserError(
                f"stage {stage.name}: the last stage takes the rest of the run, so nothing can end it early; remove "
                "its until"
            )
        for rule in rules_of(stage).values():
            if fault := rule.fault(stage, run):
                raise UserError(f"stage {stage.name}: {fault}")


def check_lengths(run: Run) -> None:
    """Raises UserError for a rule that needs more steps than its stage has, in a run measured in steps."""
    if run.unit != "steps":
        return
    for stage in run.stages:
        for key, rule in rules_of(stage).items():
            warm_at = run.learning_rate.warm_at(stage.start)
            climb = max(warm_at - stage.start, 0) if rule.waits_for_warmup else 0
            earliest = climb + rule.least_steps
            if earliest >= stage.length:
                lower = f"{'the warmup or ' if climb else ''}{key}.{rule.longest}"
                raise UserError(
                    f"stage {stage.name}: {_as_asked(key, run, stage)} can hold only after {earliest:,.0f} steps, and "
                    f"the stage has {stage.length:,.0f}; lower {lower}, or give the stage more steps"
                )


def check_keys(stages: Sequence[Stage]) -> None:
    """Raises UserError for a key that makes no sense in its stage."""
    if stages[0].grow_when:
        raise UserError(
            f"stage {stages[0].name}: the first stage has no stage before it to wait for; remove its grow_when"
        )
    names = [stage.keep for stage in stages if stage.keep]
    for name in names:
        if name in RESERVED or name.startswith("step-") or names.count(name) > 1:
            raise UserError(f"keep {name!r} is the name of another checkpoint; choose a different one")
        if name.endswith(RESERVED_ENDINGS):
            raise UserError(f"keep {name!r} ends like an unfinished or damaged checkpoint; choose another name")


def _as_asked(key: str, run: Run, stage: ResolvedStage) -> str:
    """The key as the recipe gives it: `until.auto` and `until.mixing` may come from `grow_when` of the next stage."""
    until = run.recipe.stages[stage.index].until
    given = {f"until.{rule.key}" for rule in until.rules} if until else set()
    if key.startswith("until.") and key not in given:
        return f"grow_when of stage {run.stages[stage.index + 1].name}"
    return key
