"""The learning rate: a pure function of the step, over the whole run, whatever happens to the model meanwhile.

    rate(step) = peak * phase(step) * rewarm(step) * scale(stage)

A *phase* is one warm-up, an optional hold and one decay: a run has one, two-phase BERT has two. On top of it each stage
may climb back from zero after its change of shape (re-warm-up) and may scale the rate. Steps are optimizer updates that
were applied: a step skipped by the loss scaler does not count, so it does not advance the schedule.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

Shape = Literal["linear", "polynomial", "cosine", "constant"]


@dataclass(frozen=True)
class Phase:
    """Linear warm-up over `warmup` steps, `hold` steps at the peak, then a decay to `end` at `start + length`.

    The first step has `peak / warmup`, the last of the warm-up the peak, the last of the phase just above `end`.
    """

    start: int
    length: int
    peak: float
    warmup: int = 0
    hold: int = 0
    shape: Shape = "linear"
    end: float = 0.0
    """As a part of the peak."""
    power: float = 1.0

    def __call__(self, step: int) -> float:
        elapsed = step - self.start
        if elapsed < self.warmup:
            return self.peak * (elapsed + 1) / self.warmup
        elapsed -= self.warmup + self.hold
        decay_steps = self.length - self.warmup - self.hold
        if elapsed < 0 or decay_steps <= 0:
            return self.peak
        remaining = _decay(self.shape, self.power, min(elapsed / decay_steps, 1.0))
        return self.peak * (self.end + (1 - self.end) * remaining)


def _decay(shape: Shape, power: float, progress: float) -> float:
    """Falls from 1 to 0 while `progress` goes from 0 to 1."""
    if shape == "constant":
        return 1.0
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return (1 - progress) ** (power if shape == "polynomial" else 1.0)


@dataclass(frozen=True)
class StageRate:
    """What one stage does to the rate: climb from zero over `rewarm` steps, and multiply by `scale` throughout."""

    start: int
    rewarm: int = 0
    scale: float = 1.0

    def __call__(self, step: int) -> float:
        elapsed = step - self.start
        return self.scale * ((elapsed + 1) / self.rewarm if elapsed < self.rewarm else 1.0)


@dataclass(frozen=True)
class LearningRate:
    """`learning_rate(step)` for every step of a run; phases and stages in order of their start."""

    phases: tuple[Phase, ...]
    stages: tuple[StageRate, ...] = ()

    def __call__(self, step: int) -> float:
        rate = _current(self.phases, step)(step)
        return rate * _current(self.stages, step)(step) if self.stages else rate

    @property
    def corners(self) -> list[int]:
        """The steps at which the curve bends or jumps: enough to print or draw it."""
        steps = {0}
        for phase in self.phases:
            up = max(phase.start + phase.warmup - 1, phase.start)
            steps |= {phase.start, up, up + phase.hold, phase.start + phase.length - 1}
        for stage in self.stages:
            steps |= {stage.start - 1, stage.start, stage.start + max(stage.rewarm - 1, 0)}
        return sorted(step for step in steps if step >= 0)


def _current(parts: tuple, step: int):
    """The last part that has started at `step`."""
    return parts[max(bisect_right([part.start for part in parts], step) - 1, 0)]
