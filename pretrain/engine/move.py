"""The move: engine -> logical state -> change -> new engine, in memory, between two steps."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from deepspeed.runtime.engine import DeepSpeedEngine

from growth.change import ShapeChange, identity
from growth.state import Fetch, Record, TrainingState
from model.parameters import parameter_table
from pretrain.engine.build import EngineSettings, build_engine
from pretrain.engine.exchange import assemble, engine_parts, fetch_from, write_record
from pretrain.engine.host_memory import return_freed_memory
from pretrain.engine.zero import destroy, fragments

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
    change = make_change(state) if make_change else identity(state.config)
    times.measure = clock.lap()
    steps = new_steps(change, state)
    new_engine = build_engine(change.target, settings, steps)
    times.build = clock.lap()
    load_state(new_engine, state, change)
    restore_loss_scaler(new_engine, scaler)
    times.write = clock.lap()
    return new_engine, times


def start_engine(state: TrainingState, settings: EngineSettings, change: ShapeChange | None = None) -> DeepSpeedEngine:
    """An engine that starts from a logical state, such as a fresh one or a checkpoint's. Collective."""
    change = change or identity(state.config)
    engine = build_engine(change.target, settings, new_steps(change, state))
    load_state(engine, state, change)
    return engine


def load_state(engine: DeepSpeedEngine, state: TrainingState, change: ShapeChange) -> None:
    """Fills a new engine through the change, one parameter at a time. Collective."""
    fetch = fetch_from(state)
    local = fragments(engine)
    for name in parameter_table(change.target):
        write_record(engine, local, name, change.record(name, fetch))


def new_steps(change: ShapeChange, state: TrainingState) -> dict[str, int]:
    """The step of every parameter after the change, without touching any tensor's data."""
    return {name: change.record(name, _meta_fetch(state)).step for name in parameter_table(change.target)}


def loss_scaler_state(engine: DeepSpeedEngine) -> dict:
    """The numbers of fp16's dynamic loss scaler; empty in other precisions."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    return {key: value for key, value in vars(scaler).items() if isinstance(value, int | float)} if scaler else {}


def restore_loss_scaler(engine: DeepSpeedEngine, state: dict) -> None:
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if scaler is not None:
        vars(scaler).update({key: value for key, value in state.items() if key in vars(scaler)})


def _meta_fetch(state: TrainingState) -> Fetch:
    table = parameter_table(state.config)

    def fetch(name: str) -> Record:
        empty = torch.empty(table[name].shape, device="meta")
        return Record(empty, empty, empty, state.steps[name])

    return fetch


class _Clock:
    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        previous, self.last = self.last, time.perf_counter()
        return self.last - previous
