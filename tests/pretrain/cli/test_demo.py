"""The verb `demo` keeps its promise of minutes: it trains by the clock, for what preparing the text has left."""

import time
from typing import Any

import pytest

from pretrain.cli import demo as module
from pretrain.recipe import load_recipe, resolve


@pytest.mark.parametrize(
    ("cores", "prepared_in", "gpus", "seconds", "nproc"),
    [(2, 20, 0, 204, None), (1, 40, 0, 288, 1), (16, 5, 0, 245, None), (2, 400, 0, 60, None), (1, 20, 2, 60, None)],
)
def test_the_time_that_is_left_is_trained(tmp_path, monkeypatch, capsys, cores, prepared_in, gpus, seconds, nproc):
    monkeypatch.chdir(tmp_path)
    clock: list[float] = [1000.0]
    started: list[Any] = []

    def prepare(*words: str) -> int:
        clock[0] += prepared_in
        return 0

    def train(*given: Any, **named: Any) -> int:
        started.append((given, named))
        return 0

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module, "run_verb", prepare)
    monkeypatch.setattr(module, "run_module", lambda *words: 0)
    monkeypatch.setattr(module, "count_gpus", lambda: gpus)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(module, "train", train)
    assert module.demo(("seed=3",)) == 0
    [((name, overrides), named)] = started
    run = resolve(load_recipe(name, overrides), 1024, nproc or 2)
    assert run.unit == "seconds" and run.end == pytest.approx(seconds, abs=0.1)
    assert [stage.length / run.end for stage in run.stages] == pytest.approx([0.06, 0.69, 0.25])
    assert (run.recipe.seed, named["nproc"]) == (3, nproc)
    minutes = (seconds + 50) / 60 if gpus else 8 if cores == 1 else 5
    assert capsys.readouterr().out.startswith(f"The demo takes about {minutes:.0f} minutes.\n")


def test_a_failure_to_prepare_ends_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "run_verb", lambda *words: 69)
    monkeypatch.setattr(module, "train", None)
    assert module.demo() == 69
