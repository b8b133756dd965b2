"""The learning rate: a pure function of the clock, over the whole run, whatever happens to the model meanwhile.

    rate(now) = phase(now) * rewarm(now) * scale(stage)

A *phase* is one warm-up, an optional hold and one decay: a run has one, two-phase BERT has two. On top of it each stage
may climb back from zero after its change of shape (re-warm-up) and may scale the rate.

The clock counts steps, or seconds of training for a run with a budget of hours. Steps are optimizer updates that were
applied: one that the loss scaler skipped does not count, so it does not advance the schedule.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

Shape = Literal["linear", "polynomial", "cosine", "constant"]


@dataclass(frozen=True)
class Phase:
    """Linear warm-up over `warmup` ticks, `hold` ticks at the peak, then a decay to `end` at `start + length`.

    The first tick has `peak / warmup`, the last of the warm-up the peak, the last of the phase just above `end`.
    """

    start: float
    length: float
    peak: float
    warmup: float = 0
    hold: float = 0
    shape: Shape = "linear"
    end: float = 0.0
    """As a part of the peak."""
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
    """Rises to 1 in the last tick before `length`; the first tick does not waste its step on a rate of zero."""
    return min((elapsed + 1) / length, 1.0)


def _decay(shape: Shape, power: float, progress: float) -> float:
    """Falls from 1 to 0 while `progress` goes from 0 to 1."""
    if shape == "constant":
        return 1.0
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return (1 - progress) ** (power if shape == "polynomial" else 1.0)


@dataclass(frozen=True)
class StageRate:
    """What one stage does to the rate: climb from zero over `rewarm` ticks, and multiply by `scale` throughout."""

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
        """The tick up to which the rate climbs, in the phase and the stage of a moment."""
        phase, stage = _current(self.phases, now), _current(self.stages, now)
        return max(phase.start + phase.warmup, stage.start + stage.rewarm)

    @property
    def corners(self) -> list[float]:
        """The ticks at which the curve bends or jumps: enough to print or draw it."""
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
