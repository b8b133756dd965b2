"""Names a rank that is steadily slower than the others, for which all of them wait.

A step takes equally long on all ranks, so they compare what each computes by itself: the forward passes of the model's
blocks. ZeRO's messages lie between those, unless ZeRO 3 gathers single layers. Ranks of a tensor-parallel group wait
for each other within them: there, a slow one makes its whole group slow.
"""

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pretrain.engine.distributed import device
from pretrain.engine.nodes import places_of_ranks
from pretrain.engine.replicas import gather
from pretrain.recipe import ResolvedStage
from pretrain.training.events import Hook, StepResult, TrainerView

SLOWER = 4 / 3
"""A rank is slow that takes so many times the median."""

EVERY_SECONDS = 60.0
"""How often ranks compare."""

STEADILY = 3
"""Comparisons in a row at which a rank is slow before it is named."""

SAMPLES = 20
"""Steps that are timed for a comparison; the first one comes after half as many."""


class SlowRanks(Hook):
    def __init__(self) -> None:
        self.times_slow: Counter[int] = Counter()
        """Of each rank: in how many comparisons in a row it was slow."""
        self.watch = Stopwatch()
        self.seconds: list[float] = []
        """What this rank has computed in each timed step."""

    def on_start(self, trainer: TrainerView) -> None:
        self._wait_for(trainer.progress.step, SAMPLES // 2)

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        """The engine may be new."""
        self.seconds = []
        self.watch.attach(trainer.engine.module.blocks)

    def on_skip(self, trainer: TrainerView, *_: object) -> None:
        self.watch.take()

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        seconds = self.watch.take()
        if len(self.seconds) < SAMPLES:
            self.seconds.append(seconds)
        self.watch.runs = len(self.seconds) < SAMPLES
        if result.step >= self.next_step:
            self._compare(trainer, result)

    def _compare(self, trainer: TrainerView, result: StepResult) -> None:
        per_step = (time.monotonic() - self.since) / (result.step - self.since_step)
        own = statistics.median(self.seconds)
        seconds, per_steps = gather(torch.tensor([own, per_step], dtype=torch.float64)).T.tolist()
        slow = slow_ranks(seconds)
        self.times_slow = Counter({rank: self.times_slow[rank] + 1 for rank in slow})
        steady = [rank for rank in slow if self.times_slow[rank] == STEADILY]
        if steady:
            self._name(trainer, result, steady, seconds)
        self.seconds = []
        self._wait_for(result.step, round(EVERY_SECONDS / per_steps[0]))  # rank 0's, so that all agree

    def _name(self, trainer: TrainerView, result: StepResult, ranks: list[int], seconds: Sequence[float]) -> None:
        places, usual = places_of_ranks(), statistics.median_low(seconds)
        each = ", ".join(f"{places[rank]} steadily takes {seconds[rank] / usual:.1f} times" for rank in ranks)
        message = (
            f"step {result.step:,}: {each} the median in what ranks compute by themselves; look at the clocks, the "
            "temperature and other work there"
        )
        event = {"event": "slow_ranks", "step": result.step, "stage": result.stage, "ranks": ranks, "message": message}
        trainer.call("on_event", event)

    def _wait_for(self, step: int, num_steps: int) -> None:
        self.since, self.since_step, self.next_step = time.monotonic(), step, step + max(num_steps, 1)


def slow_ranks(seconds: Sequence[float]) -> list[int]:
    """Those that take a third more than the median. Of two ranks the faster one is the measure."""
    usual = statistics.median_low(seconds)
    return [rank for rank, own in enumerate(seconds) if own > SLOWER * usual]


class Stopwatch:
    """Adds up the forward passes of modules in training, by the clock of this rank's device, without waiting for it."""

    def __init__(self) -> None:
        self.runs = True
        self.spans: list[tuple[Any, Any]] = []
        self.handles: list[RemovableHandle] = []

    def attach(self, modules: Iterable[nn.Module]) -> None:
        """To these alone, within DeepSpeed's hooks: it gathers weights before a pass and releases them after it."""
        for handle in self.handles:
            handle.remove()
        self.handles = []
        for module in modules:
            self.handles.append(module.register_forward_pre_hook(self._begin))
            self.handles.append(module.register_forward_hook(self._end, prepend=True))

    def take(self) -> float:
        """Seconds since the last call. The device has to have done its work."""
        spans, self.spans = self.spans, []
        return sum(_seconds(*span) for span in spans)

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self.begun = _moment() if self.runs and module.training else None

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.begun is not None:
            self.spans.append((self.begun, _moment()))


def _moment() -> Any:
    """Now, by the clock of this rank's device."""
    if device().type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(begin: Any, end: Any) -> float:
    return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1e3
