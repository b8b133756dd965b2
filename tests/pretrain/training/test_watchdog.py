"""The line of the watchdog, and that it ends a rank whose network is cut. A rank that hangs: tests/whole/faults."""

import os
import re
import threading
import time
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from pretrain.launch.outcome import ExitCode
from pretrain.training.hooks import watchdog
from pretrain.training.hooks.watchdog import Said, Watchdog


@pytest.fixture
def hook(monkeypatch) -> Watchdog:
    """Of rank 1 among three."""
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    one = Watchdog(timeout_minutes=1)
    one.places = ["rank 0 on node1", "rank 1 on node2", "rank 2 on node3"]
    return one


def test_a_rank_that_stands_behind_the_others_hangs(hook):
    answers = [Said(8, 0, "step 4"), Said(7, 0, "reading the rows of step 4"), Said(8, 0, "step 4")]
    line = 'rank 1 on node2 stuck in "reading the rows of step 4", the others wait in "step 4"'
    assert hook._verdict(answers, [None] * 3) == line


def test_of_a_silent_rank_is_said_what_it_said_last(hook):
    """Not that it hangs: it may be cut off, or its node gone."""
    answers = [Said(8, 0, "step 4"), None, Said(8, 0, "step 4")]
    line = hook._verdict(answers, [None, Said(8, time.time() - 70, "step 4"), None])
    assert re.fullmatch(r'rank 1 on node2 was last heard 7\d s ago in "step 4", the others wait in "step 4"', line)
    line = hook._verdict([Said(8, 0, "step 4"), None, None], [None, None, None])
    assert line.startswith("rank 1 on node2 was never heard, rank 2 on node3 was never heard, the others wait")


@pytest.mark.parametrize(("times", "ends"), [(10, False), (11, True)])
def test_a_run_that_was_stopped_and_goes_on_has_not_hung(hook, monkeypatch, times, ends):
    """By Ctrl-Z: its clock went on. Only the times that the thread has woken count."""
    woken = iter([False] * times + [True])
    monkeypatch.setattr(hook, "ended", SimpleNamespace(wait=lambda seconds: next(woken)))
    ended = []
    monkeypatch.setattr(hook, "_end", ended.append)
    hook._watch(SimpleNamespace(activity=SimpleNamespace(number=8, since=time.monotonic() - 3600)), None)
    assert bool(ended) == ends


@pytest.mark.parametrize("cut", ["blocks", "breaks"])
def test_a_rank_that_is_cut_off_from_the_store_ends_all_the_same(hook, monkeypatch, capfd, cut):
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(watchdog, "STORE_SECONDS", 0.3)
    hook.timeout_seconds = 0.3
    ended = threading.Event()

    def leave_process(code: int) -> None:
        assert code == ExitCode.HUNG
        hook.ended.set()
        ended.set()

    def no_answer(*_) -> None:
        if cut == "breaks":
            raise RuntimeError("Connection reset by peer")
        threading.Event().wait()

    store = SimpleNamespace(set=no_answer, check=no_answer, get=no_answer, clone=lambda: store)
    monkeypatch.setattr(os, "_exit", leave_process)
    monkeypatch.setattr(dist, "all_gather_object", lambda places, place: places.__setitem__(1, "rank 1 on node2"))
    monkeypatch.setattr(watchdog, "_get_default_store", lambda: store)
    hook.on_start(SimpleNamespace(activity=SimpleNamespace(number=8, name="step 4", since=time.monotonic())))
    assert ended.wait(10)
    said = 'espalier: no progress for 0.3 s: rank 1 on node2 cannot reach the other ranks; it is in "step 4"'
    assert said in capfd.readouterr().err


def test_in_a_hang_one_rank_asks_for_what_all_have_said(monkeypatch, capfd):
    """If each of a thousand did, the store would have a million requests to answer."""
    num_ranks, asked, said, lock = 40, [], {}, threading.Lock()

    def add(key: str, number: int) -> int:
        with lock:
            said[key] = said.get(key, 0) + number
            return said[key]

    def check(keys: list[str]) -> bool:
        asked.extend(keys)
        return keys[0] in said

    store = SimpleNamespace(
        set=lambda key, text: said.__setitem__(key, text.encode()), check=check, get=said.__getitem__, add=add
    )
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(dist, "get_rank", lambda: int(threading.current_thread().name))
    monkeypatch.setattr(dist, "get_world_size", lambda: num_ranks)
    threads = []
    for rank in range(num_ranks):
        hook = Watchdog(timeout_minutes=1 / 60)
        hook.places = [f"rank {other} on node1" for other in range(num_ranks)]
        hook.stalled, hook.told = threading.Event(), threading.Event()
        hook.stalled.set()
        activity = SimpleNamespace(number=7 if rank == 3 else 8, name="step 4")
        trainer = SimpleNamespace(activity=activity)
        threads.append(threading.Thread(target=hook._talk, args=(trainer, store), name=str(rank)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert capfd.readouterr().err.count('rank 3 on node1 stuck in "step 4"') == 1
    assert sum(key.startswith("hung/") and key != "hung/said" for key in asked) == num_ranks
