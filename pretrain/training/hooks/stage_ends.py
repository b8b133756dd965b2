"""Asks the rules of a stage and ends or divides it when one has held at enough checks in a row."""

from copy import deepcopy
from typing import Any

from pretrain.checkpoint.progress import Decision
from pretrain.engine.agreement import from_rank_0
from pretrain.recipe import ResolvedStage
from pretrain.stage_rules.registry import Rule, count_agreement, rules_of
from pretrain.training.events import Hook, StepResult, TrainerView


class StageEnds(Hook):
    """On every rank, before Checkpoints, which save what is decided here. All ranks go by what rank 0 found."""

    name = "stage_ends"

    def __init__(self) -> None:
        self.stage = ""
        """As the recipe names it: a stage that was divided goes on under its rules."""
        self.rules: list[Rule] = []
        self.counts: dict[str, dict[str, int]] = {}
        """By rule, at how many checks in a row something has held."""
        self.saved: dict[str, Any] = {}
        """By rule, its state when the stage was left."""
        self.is_checked = True
        """Whether the step just taken is; one that was skipped is no step."""

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        name = stage.name_in_recipe
        if name != self.stage:
            self.stage, self.counts, self.saved = name, {}, {}
        elif self.rules:
            self.saved = self._states()
        self.rules = rules_of(trainer.run, stage, trainer.progress)
        for rule in self.rules:
            if rule.name in self.saved:
                rule.restore(self.saved[rule.name])

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        self.is_checked = False
        for rule in self.rules:
            rule.see(trainer, result)

    def on_boundary(self, trainer: TrainerView) -> None:
        if self.is_checked:
            return
        self.is_checked = True
        for rule in self.rules:
            if rule.is_due and trainer.now < trainer.stage.end:
                self._ask(trainer, rule)

    def _ask(self, trainer: TrainerView, rule: Rule) -> None:
        verdict = from_rank_0(rule.check(trainer))
        counts = self.counts[rule.name] = count_agreement(self.counts.get(rule.name, {}), verdict.holds)
        place = {"step": trainer.progress.step, "stage": trainer.stage.name, "rule": rule.name}
        if verdict.numbers:
            most = max(counts.values(), default=0)
            trainer.call("on_event", {"event": rule.event, **place, "in_a_row": most, **verdict.numbers})
        agreed = [item for item, count in counts.items() if count >= rule.checks]
        if agreed:
            self.counts[rule.name] = {item: count for item, count in counts.items() if item not in agreed}
            decision = rule.decide(trainer, agreed)
            message = _in_words(trainer, rule, decision)
            trainer.call("on_event", {"event": "decision", **place, **decision.shape, "message": message})
            trainer.decide(decision)

    def state(self) -> dict[str, Any]:
        state = {"stage": self.stage, "counts": self.counts, "rules": self._states()}
        return deepcopy(state)  # it is written while the rules go on

    def restore(self, state: dict[str, Any]) -> None:
        self.stage, self.counts, self.saved = state["stage"], state["counts"], state["rules"]

    def _states(self) -> dict[str, Any]:
        return {rule.name: rule.state() for rule in self.rules}


def _in_words(trainer: TrainerView, rule: Rule, decision: Decision) -> str:
    place = f"step {trainer.progress.step:,}: {rule.name}"
    if decision.shape:
        return f"{place} gives stage {trainer.stage.name} {decision.shape_in_words}"
    return (
        f"{place} ends stage {trainer.stage.name}, which could have lasted to {trainer.run.moment(trainer.stage.end)}"
    )
