"""Ends a run in which a rank hangs, with one line that names the rank and what it was doing.

In a synchronous run one rank that hangs leaves all others waiting in a collective. Every rank counts the phases it has
passed; a thread of each notices when the count stands still, tells the others through the process group's key-value
store, and the one with the lowest count, or without an answer, is the culprit.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from pretrain.engine.exits import HUNG, leave
from pretrain.engine.nodes import node_name
from pretrain.training.hooks.base import Hook

if TYPE_CHECKING:
    from pretrain.training.trainer import Trainer

GRACE_SECONDS = 3.0
"""How much later than the first rank the others may notice."""


class Phase(NamedTuple):
    number: int
    """Phases passed before this one."""
    name: str
    since: float
    """time.monotonic()"""


class Watchdog(Hook):
    """On every rank."""

    def __init__(self, timeout_minutes: float):
        self.timeout_seconds = timeout_minutes * 60
        self.ended = threading.Event()

    def on_start(self, trainer: Trainer) -> None:
        self.places: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(self.places, f"rank {dist.get_rank()} on {node_name()}")
        store = _get_default_store().clone()
        threading.Thread(target=self._watch, args=(trainer, store), name="watchdog", daemon=True).start()

    def on_end(self, trainer: Trainer) -> None:
        self.ended.set()

    def on_leave(self, trainer: Trainer) -> None:
        self.ended.set()

    def _watch(self, trainer: Trainer, store: dist.Store) -> None:
        while not self.ended.wait(min(self.timeout_seconds / 10, 10)):
            phase: Phase = trainer.phase
            if time.monotonic() - phase.since > self.timeout_seconds:
                self._end(phase, store)

    def _end(self, phase: Phase, store: dist.Store) -> None:
        rank = dist.get_rank()
        store.set(f"hung/{rank}", f"{phase.number} {phase.name}")
        time.sleep(GRACE_SECONDS + self.timeout_seconds / 10)
        known = [store.check([f"hung/{other}"]) for other in range(dist.get_world_size())]
        if rank == known.index(True):
            answers = [store.get(f"hung/{other}").decode() if known[other] else None for other in range(len(known))]
            print(f"espalier: {self._verdict(answers)}", file=sys.stderr, flush=True)
        else:
            time.sleep(1)  # the line comes before the end
        leave(HUNG)  # torchrun still has to end the rank that hangs, so this one has to fail
        os._exit(HUNG)

    def _verdict(self, answers: list[str | None]) -> str:
        phases = [(int(number), name) for number, _, name in ((answer or "-1 ").partition(" ") for answer in answers)]
        first = min(phases)
        hung = [self.places[rank] for rank, phase in enumerate(phases) if phase == first]
        waiting = sorted({phase[1] for phase in phases if phase != first})
        doing = "silent" if first[0] < 0 else f'stuck in "{first[1]}"'
        others = f', the others wait in "{", ".join(waiting)}"' if waiting else ""
        return f"no progress for {self.timeout_seconds:g} s: {', '.join(hung)} {doing}{others}; start again to resume"
