"""Ends a run in which a rank hangs, with one line that names the rank and what it was doing.

In a synchronous run, one rank that hangs leaves all others waiting in a collective. Every rank counts its activities.
A thread on each rank notices when the count stands still and tells the others through the process group's key-value
store. The rank with the lowest count, or without an answer, is the one that hangs.
"""

import os
import sys
import threading
import time
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from pretrain.engine.nodes import node_name
from pretrain.launch.outcome import ExitCode, leave
from pretrain.training.events import Activity, Hook, TrainerView

GRACE_SECONDS = 3.0
"""How much later than the first rank the others may notice."""


class Watchdog(Hook):
    def __init__(self, timeout_minutes: float):
        self.timeout_seconds = timeout_minutes * 60
        self.ended = threading.Event()

    def on_start(self, trainer: TrainerView) -> None:
        self.places: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(self.places, f"rank {dist.get_rank()} on {node_name()}")
        store: Any = _get_default_store()
        threading.Thread(target=self._watch, args=(trainer, store.clone()), name="watchdog", daemon=True).start()

    def on_end(self, trainer: TrainerView) -> None:
        self.ended.set()

    def on_leave(self, trainer: TrainerView) -> None:
        self.ended.set()

    def _watch(self, trainer: TrainerView, store: dist.Store) -> None:
        while not self.ended.wait(min(self.timeout_seconds / 10, 10)):
            activity = trainer.activity
            if time.monotonic() - activity.since > self.timeout_seconds:
                self._end(activity, store)

    def _end(self, activity: Activity, store: dist.Store) -> None:
        rank = dist.get_rank()
        store.set(f"hung/{rank}", f"{activity.number} {activity.name}")
        time.sleep(GRACE_SECONDS + self.timeout_seconds / 10)
        known = [store.check([f"hung/{other}"]) for other in range(dist.get_world_size())]
        if rank == known.index(True):
            answers = [store.get(f"hung/{other}").decode() if known[other] else None for other in range(len(known))]
            print(f"espalier: {self._verdict(answers)}", file=sys.stderr, flush=True)
        else:
            time.sleep(1)  # the line is printed before any rank exits
        leave(ExitCode.HUNG)  # torchrun still has to end the rank that hangs, so this one has to fail
        os._exit(ExitCode.HUNG)

    def _verdict(self, answers: list[str | None]) -> str:
        """One line, from each rank's `NUMBER NAME`; None where a rank has not answered."""
        activities = [(int(number), name) for number, _, name in ((text or "-1 ").partition(" ") for text in answers)]
        first = min(activities)
        hung = [self.places[rank] for rank, activity in enumerate(activities) if activity == first]
        waiting = sorted({name for number, name in activities if (number, name) != first})
        doing = "silent" if first[0] < 0 else f'stuck in "{first[1]}"'
        others = f', the others wait in "{", ".join(waiting)}"' if waiting else ""
        return f"no progress for {self.timeout_seconds:g} s: {', '.join(hung)} {doing}{others}; start again to resume"
