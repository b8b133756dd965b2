"""The numbers of a step that a user watches, in one line, with the time that is left."""

import re
import textwrap
from collections import deque
from typing import Any

import torch

from pretrain.cost.ahead import flops_left, stages_ahead
from pretrain.cost.peak import peak_flops_per_second
from pretrain.engine.distributed import computes_on_gpu
from pretrain.training.events import StepResult, TrainerView

NUM_LAST_STEPS = 20
"""Steps that the speed is averaged over."""


class LiveLine:
    """Hears of stages, steps and events, as hooks do. `text` is the line after the last step."""

    def __init__(self) -> None:
        self.text = ""
        self.memory = ""
        self.ahead: list[dict[str, Any]] = []
        self.peak: float | None = None
        self.last: deque[StepResult] = deque(maxlen=NUM_LAST_STEPS + 1)

    def on_stage(self, trainer: TrainerView) -> None:
        self.ahead = stages_ahead(trainer.run, trainer.stage.index)
        device = torch.cuda.get_device_name() if computes_on_gpu() else ""
        self.peak = peak_flops_per_second(device, trainer.stage.precision)
        self.last.clear()

    def on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "memory":
            self.memory = f"{event.get('gpu_peak_memory_gib', event['host_memory_gib']):.1f} GiB"

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        self.last.append(result)
        speed = self._flops_per_second()
        parts = [
            f"loss {result.loss:.3f}",
            f"lr {result.lr:.2e}",
            f"gradient {result.grad_norm:.2f}",
            f"{result.tokens_per_second:,.0f} tokens/s",
        ]
        if self.peak and speed:
            parts.append(f"{speed / (self.peak * trainer.run.num_ranks):.0%} of peak")
        seconds = self._seconds_left(trainer, speed)
        parts += [self.memory] if self.memory else []
        parts += [f"{clock(seconds)} left"] if seconds is not None else []
        self.text = "  ".join(parts)

    def _flops_per_second(self) -> float | None:
        """Over the last steps; None after the first of a stage."""
        first, last = self.last[0], self.last[-1]
        seconds = last.seconds - first.seconds
        return (last.flops - first.flops) / seconds if seconds > 0 else None

    def _seconds_left(self, trainer: TrainerView, speed: float | None) -> float | None:
        """Of training: exact where the run follows the clock, else at the present FLOPs per second."""
        if trainer.run.unit == "seconds":
            return max(0.0, trainer.run.end - trainer.now)
        return flops_left(self.ahead, trainer.now) / speed if speed else None


def how_far(trainer: TrainerView) -> str:
    """Of the run: `1,200/2,000` steps, or `0:01:10/3:00:00`."""
    form = "{:,.0f}".format if trainer.run.unit == "steps" else clock
    return f"{form(trainer.now)}/{form(trainer.run.end)}"


def in_lines(text: str, width: int) -> str:
    """A line whose parts two blanks divide, on several lines where it is longer than `width`: no part is divided."""
    whole_parts = re.sub("(?<! ) (?! )", "\N{NO-BREAK SPACE}", text)
    return textwrap.fill(whole_parts, max(1, width), break_long_words=False).replace("\N{NO-BREAK SPACE}", " ")


def clock(seconds: float) -> str:
    """3723 -> 1:02:03"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
