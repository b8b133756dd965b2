"""Checks the rules of a stage, and ends or divides it when one has held at enough consecutive checks."""

from copy import deepcopy
from typing import Any

from pretrain.checkpoint.progress import Decision
from pretrain.engine.agreement import from_rank_0
from pretrain.recipe import ResolvedStage
from pretrain.stage_rules.base import Item, Watch, count_agreement, item_from_json, item_to_json
from pretrain.stage_rules.until import watch_stage
from pretrain.training.events import Hook, StepResult, TrainerView


class StageEnds(Hook):
    """All ranks use what rank 0 found."""

    name = "stage_ends"

    def __init__(self) -> None:
        self.stage = ""
        """Its name in the recipe: the parts of a divided stage share their rules."""
        self.watches: list[Watch] = []
        self.counts: dict[str, dict[Item, int]] = {}
        """By rule, the number of consecutive checks at which something has held."""
        self.saved: dict[str, Any] = {}
        """By rule, the state of its watch when the stage was left."""
        self.is_checked = True
        """Whether the last step is; a skipped step does not count."""

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        name = stage.name_in_recipe
        if name != self.stage:
            self.stage, self.counts, self.saved = name, {}, {}
        elif self.watches:
            self.saved = self._states()
        self.watches = watch_stage(trainer)
        for watch in self.watches:
            if watch.name in self.saved:
                watch.restore(self.saved[watch.name])

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        self.is_checked = False
        for watch in self.watches:
            watch.see(trainer, result)

    def on_boundary(self, trainer: TrainerView) -> None:
        if self.is_checked:
            return
        self.is_checked = True
        for watch in self.watches:
            if watch.is_due and trainer.now < trainer.stage.end:
                self._check(trainer, watch)

    def _check(self, trainer: TrainerView, watch: Watch) -> None:
        verdict = from_rank_0(watch.check(trainer))
        counts = self.counts[watch.name] = count_agreement(self.counts.get(watch.name, {}), verdict.holds)
        place = {"step": trainer.progress.step, "stage": trainer.stage.name, "rule": watch.name}
        if verdict.numbers:
            most = max(counts.values(), default=0)
            trainer.call("on_event", {"event": watch.event, **place, "in_a_row": most, **verdict.numbers})
        agreed = [item for item, count in counts.items() if count >= watch.checks]
        if agreed:
            self.counts[watch.name] = {item: count for item, count in counts.items() if item not in agreed}
            decision = watch.decide(trainer, agreed)
            message = _in_words(trainer, watch, decision)
            trainer.call("on_event", {"event": "decision", **place, **decision.shape, "message": message})
            trainer.decide(decision)

    def state(self) -> dict[str, Any]:
        counts = {name: {item_to_json(item): n for item, n in counts.items()} for name, counts in self.counts.items()}
        state = {"stage": self.stage, "counts": counts, "rules": self._states()}
        return deepcopy(state)  # it is written in the background while the watches change

    def restore(self, state: dict[str, Any]) -> None:
        self.stage, self.saved = state["stage"], state["rules"]
        self.counts = {
            name: {item_from_json(text): n for text, n in counts.items()} for name, counts in state["counts"].items()
        }

    def _states(self) -> dict[str, Any]:
        return {watch.name: watch.state() for watch in self.watches}


def _in_words(trainer: TrainerView, watch: Watch, decision: Decision) -> str:
    place = f"step {trainer.progress.step:,}: {watch.name}"
    if decision.shape:
        return f"{place} gives stage {trainer.stage.name} {decision.shape_in_words}"
    stage, run = trainer.stage, trainer.run
    weight = run.weight_cut_off(stage, trainer.now)
    cut_off = f"; its alignment ends with it, at weight {weight:.3g}" if weight else ""
    return f"{place} ends stage {stage.name}, which could have lasted to {run.moment(stage.end)}{cut_off}"
