"""Stops on a signal: at the next step boundary, saved, with an exit code that means `start me again`."""

import math
import time
from collections import deque

import torch.distributed as dist

from pretrain.engine import signals
from pretrain.engine.agreement import largest
from pretrain.engine.exits import Stop
from pretrain.launch.outcome import ExitCode
from pretrain.recipe import ResolvedStage
from pretrain.training.events import Evaluation, Hook, TrainerView
from pretrain.training.hooks.checkpoints import Checkpoints

SHARE = 0.005
"""Of a step's time: ranks that need more to ask each other do so every few steps."""

HEARD_SECONDS = 1.0
"""How much later they may then hear of a signal."""

NUM_TIMED = 32
"""How often ranks ask in each stage, at every step, before they may begin to leave steps out."""


class Preemption(Hook):
    """A signal may reach only some ranks, and any of them first, so all agree before any acts."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints
        self.asking = Asking()

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        self.asking = Asking()  # its steps, and its ranks' ways, take another time

    def on_validation(self, trainer: TrainerView, evaluation: Evaluation) -> None:
        self.asking.soon()

    def on_boundary(self, trainer: TrainerView) -> None:
        is_due, is_last_of_stage = self.asking.is_due(), trainer.now >= trainer.stage.end
        is_saved = self.checkpoints.saved_step == trainer.progress.step  # where the run may leave for other nodes
        if (is_due or is_last_of_stage or is_saved) and self.asking.ask():
            self.checkpoints.save(trainer)
            self.checkpoints.store.flush()
            raise Stop(
                f"{signals.received or 'a signal to another rank'} received: saved at step {trainer.progress.step}; "
                "the same command resumes from there",
                code=ExitCode.PREEMPTED,
            )


class Asking:
    """The hosts ask each other, at the same steps: at each one, where that takes a fraction of a millisecond.

    Gloo sends the answer from rank to rank, twice around, so hundreds of ranks take tens of milliseconds. Where that
    is much beside a step, rank 0 says in the same message how many steps later they ask again.
    """

    def __init__(self) -> None:
        self.steps_left = 1
        self.steps_taken = 0
        """Since the last answer."""
        self.seconds: deque[float] = deque(maxlen=NUM_TIMED)
        """That asking took, with the wait for the last rank."""
        self.answered_at = 0.0

    def is_due(self) -> bool:
        """Whether to ask at this step. Called once in each."""
        self.steps_left -= 1
        self.steps_taken += 1
        return self.steps_left <= 0

    def soon(self) -> None:
        """At the next step: this one has taken long. All ranks call it in the same steps."""
        self.steps_left = 1

    def ask(self) -> bool:
        """Whether any rank has received a signal. Collective."""
        began_at = time.perf_counter()
        every = self._steps(began_at) if dist.get_rank() == 0 else 0
        is_asked, self.steps_left = largest(signals.received is not None, every)
        self.steps_taken = 0
        self.answered_at = time.perf_counter()
        self.seconds.append(self.answered_at - began_at)
        return bool(is_asked)

    def _steps(self, now: float) -> int:
        """To the next time, by rank 0's clock. Of what asking took the least counts: the rest is a wait for ranks that
        the next step would wait for."""
        if len(self.seconds) < NUM_TIMED:
            return 1
        step_seconds = (now - self.answered_at) / self.steps_taken
        wanted, allowed = min(self.seconds) / (SHARE * step_seconds), HEARD_SECONDS / step_seconds
        return max(1, min(math.ceil(wanted), int(allowed)))
