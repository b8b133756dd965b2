"""Says after the first step how long the start took, and which part of it how long: the event `start_up`."""

from pretrain.engine.compilation import compile_seconds
from pretrain.launch import start_up
from pretrain.training.events import Evaluation, Hook, StepResult, TrainerView


class StartUp(Hook):
    """Once for a process that a launcher has started; of rank 0, whose waiting for slower ranks is in `rendezvous`."""

    def __init__(self) -> None:
        self.compiled = 0.0

    def on_start(self, trainer: TrainerView) -> None:
        self._finished("build")

    def on_validation(self, trainer: TrainerView, evaluation: Evaluation) -> None:
        self._finished("validation")

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        self._finished("first_step")
        if parts := start_up.stop():
            seconds = sum(parts.values())
            named = ", ".join(f"{part.replace('_', ' ')} {of_part:.1f}" for part, of_part in parts.items())
            event = {"event": "start_up", "step": result.step, "stage": result.stage, "seconds": seconds, **parts}
            trainer.call("on_event", {**event, "message": f"first step {seconds:.1f} s after the start: {named}"})

    def _finished(self, part: str) -> None:
        before, self.compiled = self.compiled, compile_seconds()
        start_up.finished(part, self.compiled - before)
