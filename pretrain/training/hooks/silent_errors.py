"""Finds numbers that have changed without an error, and goes back to the checkpoint before that.

It looks every N steps, and before a state is saved: every checkpoint is of a state that has just passed, so the last
one is from before the fault. docs/multi-node.md says what each check finds and what it does not.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pretrain.engine.arithmetic import wrong_arithmetic
from pretrain.engine.nodes import places_of_ranks
from pretrain.engine.replicas import Difference, different_replica
from pretrain.recipe.schema import Faults
from pretrain.training.evaluation import validation_rows
from pretrain.training.events import Hook, TrainerView
from pretrain.training.hooks.rollbacks import Rollbacks

CURE = "leave that node out, and start again to resume"


@dataclass
class Check:
    name: str
    every: int
    """Steps; 0 for never."""
    find: Callable[[TrainerView], Difference | None]
    fault: str
    """What is wrong with a rank that it finds."""
    last_step: int = -1
    """That it looked at."""


class SilentErrors(Hook):
    def __init__(self, rollbacks: Rollbacks, settings: Faults):
        self.rollbacks = rollbacks
        self.checks = (
            Check("weights", settings.check_replicas, _different_weights, "holds other weights than other replicas"),
            Check(
                "gradients",
                settings.check_arithmetic,
                _different_gradients,
                "has other gradients of the same rows than other replicas",
            ),
        )

    def on_boundary(self, trainer: TrainerView) -> None:
        for check in self.checks:
            if check.every and trainer.progress.step % check.every == 0:
                self._look(check, trainer)

    def on_save(self, trainer: TrainerView) -> None:
        for check in self.checks:
            if check.every:
                self._look(check, trainer)

    def _look(self, check: Check, trainer: TrainerView) -> None:
        step = trainer.progress.step
        if check.last_step == step:
            return
        check.last_step = step
        trainer.start_activity(f"comparison of {check.name} at step {step}")
        found = check.find(trainer)
        if found:
            self.rollbacks.repeat(f"step {step}: {_who(found)} {check.fault}{_where(found)}", CURE)


def _different_weights(trainer: TrainerView) -> Difference | None:
    return different_replica(trainer.engine)


def _different_gradients(trainer: TrainerView) -> Difference | None:
    """On one micro-batch of validation rows, which are the same on every rank, with the same dropout."""
    stage, data, draw = trainer.stage, trainer.run.recipe.data, trainer.progress.position.draw
    how = data, stage.micro_batch, stage.micro_batch, 0, 1, draw, stage.objective
    (batch,) = validation_rows(trainer.corpus, stage.sequence, *how)
    return wrong_arithmetic(trainer.engine, batch, seed=trainer.progress.step)


def _who(found: Difference) -> str:
    places = places_of_ranks()
    return (", " if found.known else " or ").join(places[rank] for rank in found.ranks)


def _where(found: Difference) -> str:
    return f" (first in {found.tensor})" if found.tensor else ""
