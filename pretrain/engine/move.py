"""The move: engine -> logical state -> change -> new engine, in memory, between two steps."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

from deepspeed.runtime.engine import DeepSpeedEngine

from growth.change import ShapeChange, identity
from growth.moments import as_kept
from growth.state import TrainingState
from pretrain.engine.build import EngineSettings, build_engine
from pretrain.engine.exchange import assemble, engine_parts, write_state
from pretrain.engine.host_memory import return_freed_memory
from pretrain.engine.spread import Plan
from pretrain.engine.zero import destroy

MakeChange = Callable[[TrainingState], ShapeChange]
"""Decides on the change once the old state can be read: an operator may measure something on it first."""


@dataclass
class MoveTimes:
    """Seconds of each part of a move."""

    destroy: float = 0.0
    read: float = 0.0
    measure: float = 0.0
    build: float = 0.0
    write: float = 0.0


def move(
    engine: DeepSpeedEngine, settings: EngineSettings, make_change: MakeChange | None = None
) -> tuple[DeepSpeedEngine, MoveTimes]:
    """Changes shape, layout and ZeRO stage at once. Collective.

    Destroys `engine`: the caller must hold no other reference to it or its module, or both stay in memory.
    """
    times, clock = MoveTimes(), _Clock()
    scaler = loss_scaler_state(engine)
    parts = engine_parts(engine)
    destroy(engine)
    del engine
    gc.collect()  # engine and module refer to each other
    return_freed_memory()
    times.destroy = clock.lap()
    state = assemble(parts)
    times.read = clock.lap()
    change = as_kept(make_change(state) if make_change else identity(state.config), settings.groups.moments_of)
    times.measure = clock.lap()
    plan = Plan.of(change, state)
    new_engine = build_engine(change.target, settings, plan.steps)
    times.build = clock.lap()
    write_state(new_engine, plan, drops=True)
    restore_loss_scaler(new_engine, scaler)
    times.write = clock.lap()
    return new_engine, times


def start_engine(state: TrainingState, settings: EngineSettings, change: ShapeChange | None = None) -> DeepSpeedEngine:
    """An engine that starts from a logical state, such as a fresh one or a checkpoint's. Collective."""
    plan = Plan.of(as_kept(change or identity(state.config), settings.groups.moments_of), state)
    engine = build_engine(plan.change.target, settings, plan.steps)
    write_state(engine, plan)
    return engine


def loss_scaler_state(engine: DeepSpeedEngine) -> dict:
    """The numbers of fp16's dynamic loss scaler; empty in other precisions."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    return {key: value for key, value in vars(scaler).items() if isinstance(value, int | float)} if scaler else {}


def restore_loss_scaler(engine: DeepSpeedEngine, state: dict) -> None:
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if scaler is not None:
        vars(scaler).update({key: value for key, value in state.items() if key in vars(scaler)})


class _Clock:
    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        previous, self.last = self.last, time.perf_counter()
        return self.last - previous
