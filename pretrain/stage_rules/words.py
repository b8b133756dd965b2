"""The rules of a stage in words, for `plan` and the console."""

from collections.abc import Iterator

from pretrain.recipe import ResolvedStage
from pretrain.stage_rules.settings import Check


def length_in_words(length: str, stage: ResolvedStage) -> str:
    """`1,000 steps`, or `at most 1,000 steps, until ...`."""
    if stage.until is None:
        return length
    return f"at most {length}, until {' or '.join(_reasons(stage))}"


def split_in_words(stage: ResolvedStage) -> str:
    assert stage.split is not None
    rule = stage.split
    return f"groups split where the gradients of neighbours correlate below {rule.below:g}{_checks(rule)}"


def _reasons(stage: ResolvedStage) -> Iterator[str]:
    until = stage.until
    assert until is not None
    if until.tokens:
        yield f"{until.tokens:,} tokens"
    if until.hours:
        yield f"{until.hours:g} hours of training"
    if rule := until.loss:
        yield f"the loss is below {rule.below:g}{_checks(rule)}"
    if rule := until.loss_slope:
        yield f"the loss falls by less than {rule.below:g} nats for each e-fold of FLOPs{_checks(rule)}"
    if rule := until.auto:
        yield f"a FLOP buys more in the next stage{_checks(rule)}"
    if rule := until.gradient_correlation:
        yield f"more than half of the neighbours' gradients correlate below {rule.below:g}{_checks(rule)}"
    if rule := until.ticket_distance:
        yield f"less than {rule.below:.1%} of the units to prune change{_checks(rule)}"


def _checks(rule: Check) -> str:
    every = f"every {rule.every:,} steps" if rule.every > 1 else "every step"
    return f" (checked {every}" + (f", {rule.checks} times in a row)" if rule.checks > 1 else ")")
