"""`faults.notify`: what the command learns, and that it stops nothing; the end of a run as its launcher sees it."""

import json
import os
import time

import pytest

from pretrain.launch.outcome import ExitCode
from pretrain.runs import ending, journal, notify
from pretrain.runs.ending import end_launch
from tests.support.launching import is_alive

EVENT = {"event": "restart", "step": 1200, "cause": 'node "node3" is lost', "node": "node3"}


def test_the_command_learns_what_happened(tmp_path, capfd):
    file = tmp_path / "told"
    command = 'printf "%s|%s|%s|%s|%s|%s" "$ESPALIER_RUN" "$ESPALIER_EVENT" "$ESPALIER_STEP" "$ESPALIER_REASON" '
    command += f'"$ESPALIER_NODE" "$ESPALIER_MESSAGE" >{file}; printf %s "$ESPALIER_JSON" >{file}.json; echo not shown'
    notify.notify(command, tmp_path / "large", EVENT)
    run, reason = tmp_path / "large", 'node "node3" is lost'
    message = f"{run} was started again at step 1,200: {reason}"
    assert file.read_text().split("|") == [str(run), "restart", "1200", reason, "node3", message]
    told = json.loads((tmp_path / "told.json").read_text())
    assert told.pop("text") == message
    assert told == {"run": str(run), "event": "restart", "step": 1200, "reason": reason, "node": "node3"}
    assert capfd.readouterr() == ("", "")


def test_a_command_that_fails_is_one_line(tmp_path, capfd):
    notify.notify("echo sending; echo no such host >&2; exit 6", tmp_path, EVENT)
    assert capfd.readouterr().err == "espalier: faults.notify ended with exit code 6: no such host\n"


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(notify, "LIMIT_SECONDS", 1.0)
    notify.notify(f"sleep 300 & echo $! >{tmp_path}/child; wait", tmp_path, EVENT)
    assert capfd.readouterr().err == "espalier: faults.notify took more than 1 s and was ended\n"
    deadline = time.monotonic() + 10
    while is_alive(int((tmp_path / "child").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_most_events_are_told_to_nobody(tmp_path):
    for event in ("start", "stage", "lead", "requeued", "stopped"):
        notify.notify(f"touch {tmp_path}/told", tmp_path, {"event": event})
    notify.notify(None, tmp_path, EVENT)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """A function that ends a launch with an exit code, after what its ranks have written; gives what was told."""
    monkeypatch.setattr(os, "environ", {**os.environ, "SLURM_JOB_ID": "71"})
    told = []
    monkeypatch.setattr(ending, "notify", lambda command, folder, entry: told.append(entry))

    def end(code: int, *written: dict, is_requeued: bool = False) -> list[dict]:
        ending.begin_launch()
        for entry in written:
            own = {"launch": os.environ[ending.LAUNCH]} if entry["event"] == "start" else {}
            journal.write(tmp_path, **entry, **own)
        end_launch(tmp_path, "tell", code, is_requeued)
        return told

    return end


START = {"event": "start", "step": 0}


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (ExitCode.HUNG, "a rank hung; its output says which"),
        (ExitCode.PEER_LOST, "a rank was lost"),
        (137, "a rank was killed by SIGKILL"),
        (3, "exit code 3"),
    ],
)
def test_the_launcher_writes_down_what_no_rank_could(launch, tmp_path, code, cause):
    (tmp_path / "metrics.jsonl").write_text('{"step": 7}\n')
    (told,) = launch(code, START)
    assert (told["event"], told["cause"], told["code"], told["step"]) == ("failure", cause, code, 7)
    assert journal.read(tmp_path)[-1] == told


def test_what_a_rank_has_written_is_told_once(launch, tmp_path):
    preempted = {"event": "preempted", "step": 8, "cause": "SIGTERM received"}
    (told,) = launch(ExitCode.PREEMPTED, START, preempted, is_requeued=True)
    assert told["cause"] == "SIGTERM received"
    assert [entry["event"] for entry in journal.read(tmp_path)] == ["start", "preempted", "requeued"]
    assert journal.read(tmp_path)[-1]["job"] == "71"


def test_a_launch_that_did_not_begin_leaves_the_journal_as_it_is(launch, tmp_path):
    """It may be that of another launch, which trains there."""
    launch(ExitCode.DONE, START)
    (told,) = launch(ExitCode.MISTAKE)
    assert told["event"] == "failure"
    launch(ExitCode.PREEMPTED, is_requeued=True)  # before it had begun
    assert [entry["event"] for entry in journal.read(tmp_path)] == ["start"]


def test_ctrl_c_is_no_failure(launch, tmp_path):
    launch(ExitCode.INTERRUPTED, START)
    assert journal.read(tmp_path)[-1]["event"] == "stopped"
