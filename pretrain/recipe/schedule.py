"""The learning rate: a pure function of the clock over the whole run, independent of changes of shape.

    rate(now) = phase(now) * rewarm(now) * scale(stage)

A *phase* is a warmup, an optional hold and a decay: most runs have one, two-phase BERT has two. Each stage may also
climb back from near zero after its change of shape (rewarm) and scale the rate. A climb over N steps begins at 1/N, not
at 0: no step is without effect.

The clock counts steps, or seconds of training for a run with a budget of hours. Steps are optimizer updates that were
applied: one that the loss scaler skipped does not count, so it does not advance the schedule.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

Shape = Literal["linear", "polynomial", "cosine", "sqrt", "constant"]


@dataclass(frozen=True)
class Phase:
    """Linear warmup over `warmup` ticks, `hold` ticks at the peak, then a decay to `end` at `start + length`.

    The first tick has `peak / warmup`, the last of the warmup the peak, the last of the phase a rate just above `end`.
    """

    start: float
    length: float
    peak: float
    warmup: float = 0
    hold: float = 0
    shape: Shape = "linear"
    end: float = 0.0
    """As a fraction of the peak."""
    power: float = 1.0

    def __call__(self, now: float) -> float:
        elapsed = now - self.start
        if elapsed < self.warmup:
            return self.peak * _climb(elapsed, self.warmup)
        elapsed -= self.warmup + self.hold
        decay_length = self.length - self.warmup - self.hold
        if elapsed < 0 or decay_length <= 0:
            return self.peak
        remaining = _decay(self.shape, self.power, min(elapsed / decay_length, 1.0))
        return self.peak * (self.end + (1 - self.end) * remaining)


def _climb(elapsed: float, length: float) -> float:
    """Rises to 1 in the last tick before `length`. Starts above 0, so the first step is not wasted."""
    return min((elapsed + 1) / length, 1.0)


def _decay(shape: Shape, power: float, progress: float) -> float:
    """Falls from 1 to 0 while `progress` goes from 0 to 1."""
    if shape == "constant":
        return 1.0
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if shape == "sqrt":
        return 1 - math.sqrt(progress)
    return (1 - progress) ** (power if shape == "polynomial" else 1.0)


@dataclass(frozen=True)
class StageRate:
    """The factor of one stage: a climb from zero over `rewarm` ticks, times `scale` throughout."""

    start: float
    rewarm: float = 0
    scale: float = 1.0

    def __call__(self, now: float) -> float:
        elapsed = now - self.start
        return self.scale * (_climb(elapsed, self.rewarm) if elapsed < self.rewarm else 1.0)


@dataclass(frozen=True)
class LearningRate:
    """`learning_rate(now)` for every moment of a run; phases and stages in order of their start."""

    phases: tuple[Phase, ...]
    stages: tuple[StageRate, ...] = ()

    def __call__(self, now: float) -> float:
        rate = _current(self.phases, now)(now)
        return rate * _current(self.stages, now)(now) if self.stages else rate

    def warm_at(self, now: float) -> float:
        """The tick at which the climb ends, in the phase and the stage at `now`."""
        phase, stage = _current(self.phases, now), _current(self.stages, now)
        return max(phase.start + phase.warmup, stage.start + stage.rewarm)

    @property
    def corners(self) -> list[float]:
        """The breakpoints of the curve, in ticks: enough to print or draw it."""
        ticks = {0.0}
        for phase in self.phases:
            up = max(phase.start + phase.warmup - 1, phase.start)
            ticks |= {phase.start, up, up + phase.hold, phase.start + phase.length - 1}
        for stage in self.stages:
            ticks |= {stage.start - 1, stage.start, stage.start + max(stage.rewarm - 1, 0)}
        return sorted(tick for tick in ticks if tick >= 0)


def _current(parts: tuple, now: float):
    """The last part that has started."""
    return parts[max(bisect_right([part.start for part in parts], now) - 1, 0)]
