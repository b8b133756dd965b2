"""Ends a run in which a rank hangs, with one line that names the rank and what it was doing.

In a synchronous run, one rank that hangs leaves all others waiting in a collective. Every rank counts its activities.
A thread on each rank notices when the count stands still. Another tells the rest through the process group's key-value
store, where its calls may block for ever if the network is cut: nothing waits for it without a limit. The rank with the
lowest count hangs. Of a rank that does not answer, only what it said last is known.
"""

import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from pretrain.engine.place import node_name
from pretrain.launch.outcome import ExitCode, leave
from pretrain.training.events import Activity, Hook, TrainerView

GRACE_SECONDS = 3.0
"""How much later than the first rank the others may notice."""

STORE_SECONDS = 5.0
"""How long the store may take to answer."""


class Said(NamedTuple):
    """What a rank has said of itself."""

    number: int
    """Of its activities so far."""
    time: float
    """By its clock, in seconds since 1970."""
    activity: str


class Watchdog(Hook):
    def __init__(self, timeout_minutes: float):
        self.timeout_seconds = timeout_minutes * 60
        self.ended = threading.Event()

    def on_start(self, trainer: TrainerView) -> None:
        self.places: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(self.places, f"rank {dist.get_rank()} on {node_name()}")
        self.stalled = threading.Event()
        self.told = threading.Event()
        default: Any = _get_default_store()
        store = default.clone()  # a connection for the thread alone
        for work in (self._watch, self._talk):
            threading.Thread(target=work, args=(trainer, store), name="watchdog", daemon=True).start()

    def on_end(self, trainer: TrainerView) -> None:
        self.ended.set()

    def on_leave(self, trainer: TrainerView) -> None:
        self.ended.set()

    def _watch(self, trainer: TrainerView, store: dist.Store) -> None:
        """Counts how often it has woken within one activity: on the clock, a run that was stopped by Ctrl-Z and goes on
        would have hung."""
        number, times = -1, 0
        while not self.ended.wait(self._interval_seconds):
            activity = trainer.activity
            number, times = activity.number, times + 1 if activity.number == number else 0
            if times * self._interval_seconds >= self.timeout_seconds:
                self._end(activity)

    def _end(self, activity: Activity) -> None:
        self.stalled.set()
        if not self.told.wait(self._answer_seconds + 2 * STORE_SECONDS):
            self._say(f'{self.places[dist.get_rank()]} cannot reach the other ranks; it is in "{activity.name}"')
        leave(ExitCode.HUNG)  # torchrun still has to end the rank that hangs, so this one has to fail
        os._exit(ExitCode.HUNG)

    def _talk(self, trainer: TrainerView, store: dist.Store) -> None:
        """Says now and then what this rank does; once it stands still, compares with the others."""
        rank, num_ranks = dist.get_rank(), dist.get_world_size()
        with suppress(RuntimeError):  # the store is gone
            while not self.stalled.wait(self._interval_seconds):
                if self.ended.is_set():
                    return
                activity = trainer.activity
                store.set(f"heard/{rank}", f"{activity.number} {time.time():.0f} {activity.name}")
            activity = trainer.activity
            store.set(f"hung/{rank}", f"{activity.number} {time.time():.0f} {activity.name}")
            time.sleep(self._answer_seconds)
            if store.add("hung/speakers", 1) == 1:  # one asks for what all have said: of a thousand, each would ask all
                answers = [_read(store, f"hung/{other}") for other in range(num_ranks)]
                heard = [None if answers[other] else _read(store, f"heard/{other}") for other in range(num_ranks)]
                self._say(self._verdict(answers, heard))
                store.set("hung/said", "")
            else:
                self._await_line(store)
            self.told.set()

    def _await_line(self, store: dist.Store) -> None:
        """It is printed before any rank exits."""
        deadline = time.monotonic() + STORE_SECONDS
        while not store.check(["hung/said"]) and time.monotonic() < deadline:
            time.sleep(0.2)

    def _verdict(self, answers: list[Said | None], heard: list[Said | None]) -> str:
        """From what each rank said once it stood still, and what those said before who have not answered."""
        known = [answer for answer in answers if answer]
        silent = [rank for rank, answer in enumerate(answers) if answer is None]
        first = min(known)
        if silent:
            parts = [f"{self.places[rank]} {_last_words(heard[rank])}" for rank in silent]
            waiting = {answer.activity for answer in known}
        else:
            hung = [self.places[rank] for rank, answer in enumerate(known) if answer.number == first.number]
            parts = [f'{", ".join(hung)} stuck in "{first.activity}"']
            waiting = {answer.activity for answer in known if answer.number != first.number}
        others = f', the others wait in "{", ".join(sorted(waiting))}"' if waiting else ""
        return f"{', '.join(parts)}{others}"

    def _say(self, what: str) -> None:
        line = f"espalier: no progress for {self.timeout_seconds:g} s: {what}; start again to resume"
        print(line, file=sys.stderr, flush=True)

    @property
    def _interval_seconds(self) -> float:
        return min(self.timeout_seconds / 10, 10)

    @property
    def _answer_seconds(self) -> float:
        """How long the other ranks may take to notice and to answer."""
        return GRACE_SECONDS + self._interval_seconds


def _read(store: dist.Store, key: str) -> Said | None:
    if not store.check([key]):
        return None
    number, seconds, activity = store.get(key).decode().split(" ", 2)
    return Said(int(number), float(seconds), activity)


def _last_words(said: Said | None) -> str:
    return f'was last heard {time.time() - said.time:.0f} s ago in "{said.activity}"' if said else "was never heard"
