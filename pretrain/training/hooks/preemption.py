"""Stops on a signal: at the next step boundary, saved, with an exit code that means `start me again`."""

from pretrain.engine import signals
from pretrain.engine.agreement import asked_to_stop
from pretrain.engine.exits import Stop
from pretrain.launch.outcome import ExitCode
from pretrain.training.events import Hook, TrainerView
from pretrain.training.hooks.checkpoints import Checkpoints


class Preemption(Hook):
    """A signal may reach only some ranks, and any of them first, so all agree before any acts.

    The hosts do, at every step: it takes them a fraction of a millisecond, in which a GPU still has the update to do.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def on_boundary(self, trainer: TrainerView) -> None:
        if asked_to_stop():
            self.checkpoints.save(trainer)
            self.checkpoints.store.flush()
            raise Stop(
                f"{signals.received or 'a signal to another rank'} received: saved at step {trainer.progress.step}; "
                "the same command resumes from there",
                code=ExitCode.PREEMPTED,
            )
