"""Shows the progress of a run: a bar on a terminal, a line every few seconds in a log."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from pretrain.recipe import ResolvedStage
from pretrain.stage_rules.until import length_in_words
from pretrain.training.events import Evaluation, GrowthEvent, Hook, StepResult, TrainerView
from pretrain.training.hooks.live_line import LiveLine, how_far, in_lines

LOG_SECONDS = 10.0
BAR_WIDTH = 10


class ConsoleDisplay(Hook):
    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.last_line = 0.0
        self.live = LiveLine()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=BAR_WIDTH),
            TextColumn("{task.fields[place]}"),
            TextColumn("{task.fields[numbers]}", table_column=Column(ratio=1)),
            console=self.console,
            expand=True,
            disable=not self.console.is_terminal,
        )

    def on_start(self, trainer: TrainerView) -> None:
        self.bar.start()
        self.task = self.bar.add_task("", total=trainer.run.end, place=how_far(trainer), numbers="")
        self.bar.update(self.task, completed=trainer.now)
        if trainer.progress.step:
            self.console.print(f"resumed at step {trainer.progress.step:,}")

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        self.live.on_stage(trainer)
        self.bar.update(self.task, description=stage.name)
        self.console.print(
            f"stage {stage.name}: {stage.config.summary()}, {stage.global_batch} x {stage.sequence} tokens a step, "
            f"ZeRO {stage.zero_stage}, TP {stage.tensor_parallel} x DP {stage.data_parallel}, "
            f"{'sequence parallel, ' * stage.sequence_parallel}"
            f"{length_in_words(trainer.run.moment(stage.length), stage.until)}"
        )

    def on_growth(self, trainer: TrainerView, event: GrowthEvent) -> None:
        self.console.print(
            f"{event.operator} at step {event.step:,}: loss {event.loss_before:.4f} before, "
            f"{event.loss_after:.4f} after, {event.seconds:.2f} s"
        )

    def on_validation(self, trainer: TrainerView, evaluation: Evaluation) -> None:
        self.console.print(
            f"validation at step {trainer.progress.step:,}: "
            f"loss {evaluation.loss:.4f}, accuracy {evaluation.accuracy:.1%}"
        )

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        self.live.on_step(trainer, result)
        place = how_far(trainer)
        room = self.console.width - len(f"{result.stage} {place} ") - BAR_WIDTH - 2
        self.bar.update(self.task, completed=trainer.now, place=place, numbers=in_lines(self.live.text, room))
        if not self.console.is_terminal and time.monotonic() - self.last_line > LOG_SECONDS:
            self.last_line = time.monotonic()
            end = trainer.run.moment(trainer.run.end)
            place = f"of {end}" if trainer.run.unit == "steps" else f"at {trainer.run.moment(trainer.now)} of {end}"
            self.console.print(f"{result.stage} step {result.step:,} {place}  {self.live.text}")

    def on_event(self, trainer: TrainerView, event: dict[str, Any]) -> None:
        self.live.on_event(event)
        if "message" in event:
            self.console.print(event["message"])

    def on_leave(self, trainer: TrainerView) -> None:
        self.bar.stop()

    def on_end(self, trainer: TrainerView) -> None:
        self.bar.stop()
