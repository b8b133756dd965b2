import os
import time

import pytest

from pretrain.launch import start_up
from pretrain.launch.local import run_here
from tests.support.home import HOME

SAY = """
import os
from pretrain.launch import start_up
if os.environ["RANK"] == "0":
    print(sorted(start_up.stop()), "ESPALIER_BEGAN" in os.environ, flush=True)
"""


def test_the_parts_add_up_to_the_time_since_the_launcher_began(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setenv(start_up.BEGAN, "990.5")
    start_up.start()
    assert start_up.BEGAN not in os.environ
    for part, seconds, compiled in [("launch", 0, 0), ("corpus", 3, 0), ("node_check", 2, 0), ("corpus", 1, 0)]:
        now[0] += seconds
        start_up.finished(part, compiled)
    now[0] += 30
    start_up.finished("first_step", 25)
    parts = start_up.stop()
    assert parts == {"launch": 9.5, "corpus": 4, "node_check": 2, "compile": 25, "first_step": 5}
    assert start_up.stop() == {}


def test_without_a_launcher_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(start_up.BEGAN, raising=False)
    start_up.start()
    start_up.finished("imports")
    assert start_up.stop() == {}


def test_a_rank_knows_when_its_launcher_began(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "said.py").write_text(SAY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{HOME}")
    with open(tmp_path / "output", "w+b") as output:
        assert run_here(["said"], 1, output=output) == 0
    assert (tmp_path / "output").read_text().splitlines()[-1] == "['launch'] False"
