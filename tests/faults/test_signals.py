"""A signal at any moment: the run is saved at the next step, exits with the code for `again`, and can go on."""

import json
import signal
import time

import pytest

from pretrain.exits import PREEMPTED
from tests.faults.launching import Launched, kill
from tests.little import write_recipe

# Whom the signal reaches, which one it is, and what the run is doing then: the last line that it has printed.
MOMENTS = [
    ("launcher", signal.SIGTERM, "launch"),
    ("one rank", signal.SIGUSR1, "untied"),
]


@pytest.mark.parametrize(("whom", "number", "moment"), MOMENTS, ids=[moment for _, _, moment in MOMENTS])
def test_a_signal_saves_the_run_and_asks_for_another_start(corpus, tmp_path, whom, number, moment):
    recipe = write_recipe(tmp_path / "little.yaml", corpus)
    checkpoints = tmp_path / "runs" / "little" / "checkpoints"
    with Launched(recipe, tmp_path / "runs") as run:
        if moment == "launch":  # before there is any rank that could hear it
            while not run.torchrun():
                time.sleep(0.05)
        else:
            run.wait_for(f"stage {moment}")
        kill(run.process.pid if whom == "launcher" else run.ranks()[-1], number)
        assert run.wait() == PREEMPTED, run.text()
        text = run.text()
    assert "received: saved at step" in text
    assert "Traceback" not in text and "FAILED" not in text
    saved = checkpoints / (checkpoints / "latest").read_text().strip()
    step = json.loads((saved / "index.json").read_text())["run"]["progress"]["step"]
    assert f"saved at step {step};" in text
    assert step < 30
    if moment == "untied":
        with Launched(recipe, tmp_path / "runs") as run:
            assert run.wait() == 0, run.text()
            assert f"resumed at step {step}" in run.text()
