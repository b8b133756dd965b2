"""Says how long a step should take, and at the end how long it took, where this machine was calibrated."""

import socket

from model.errors import UserError
from pretrain.cost.time.machine import Machine, machine_here
from pretrain.cost.time.step import step_time
from pretrain.cost.time.tables import milliseconds
from pretrain.engine.distributed import computes_on_gpu
from pretrain.recipe import ResolvedStage
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import EXPECTED_STEP, History, usual_step_seconds
from pretrain.runs.prediction import segment_length
from pretrain.training.events import Hook, TrainerView


class ExpectedStep(Hook):
    """On rank 0: the event `expected_step` of each stage. Silent on machines that are unknown, or not for this run."""

    def __init__(self, folder: RunFolder):
        self.folder = folder.path
        self.machine: Machine | None = None

    def on_start(self, trainer: TrainerView) -> None:
        self.machine = machine_here(socket.gethostname(), on_cpu=not computes_on_gpu())

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        if self.machine is None:
            return
        segment = segment_length(trainer.run.recipe, trainer.corpus)
        try:
            seconds = step_time(trainer.run, stage, self.machine, segment).seconds
        except UserError:  # a precision, or a number of nodes, that was not measured
            return
        event = {
            "event": EXPECTED_STEP,
            "step": trainer.progress.step,
            "stage": stage.name,
            "machine": self.machine.name,
            "seconds": seconds,
            "error_percent": self.machine.error_percent,
        }
        around = f"±{self.machine.error_percent:g}%, machine {self.machine.name}"
        trainer.call("on_event", {**event, "message": f"expected: {milliseconds(seconds)} ms a step ({around})"})

    def on_end(self, trainer: TrainerView) -> None:
        if self.machine is None:
            return
        history = History.read(self.folder)
        for stage, expected in history.expected_step_seconds.items():
            if taken := usual_step_seconds(history.steps_of(stage)):
                times = f"{milliseconds(taken)} ms a step, {milliseconds(expected)} expected"
                print(f"stage       {stage}: {times} ({expected / taken - 1:+.0%})")
