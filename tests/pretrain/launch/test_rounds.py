"""What the first host tells the others, with a clock that the test moves. Whole hosts: tests/whole/test_hosts.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.launch.outcome import ExitCode
from pretrain.launch.rounds import GATHER_SECONDS, PATIENCE_SECONDS, Rounds
from pretrain.launch.survivors import CAUSE
from pretrain.launch.tolerance import Tolerance

LIMIT = 30
JOIN_SECONDS = 300


class Meeting:
    """The first host's list, and hosts that ask. Each has its name for an id."""

    def __init__(self, folder: Path, fewest: int = 1, most: int = 4):
        self.now = 0.0
        self.rounds = Rounds(
            "a", "a:29400", {"another recipe": "1"}, fewest, most,
            Tolerance(LIMIT, restarts=2, folder=str(folder)), JOIN_SECONDS, lambda: self.now,
        )  # fmt: skip

    def ask(self, *names: str, **more: Any) -> dict[str, Any]:
        """What the last of them is told."""
        for name in names:
            request = {"id": name, "name": name, "identity": {"another recipe": "1"}} | more
            word = self.rounds.answer(request, f"10.0.0.{ord(name[0])}")
        return word

    def begin(self, *names: str) -> str:
        """A round on these. Returns its key."""
        self.ask(*names)
        for _ in range(int(GATHER_SECONDS)):
            self.now += 1
            word = self.ask(*reversed(names))
        assert word["hosts"] == list(names), word
        return word["round"]

    def report(self, name: str, key: str, code: int, leaves: bool = False, **lost: str) -> dict[str, Any]:
        report = {"round": key, "code": int(code), "lost": lost, "leaves": leaves}
        return self.ask(name, report=report, leaves=leaves)


@pytest.fixture
def meeting(tmp_path: Path) -> Meeting:
    return Meeting(tmp_path)


def cause(word: dict[str, Any]) -> dict[str, Any]:
    return json.loads(word["variables"][CAUSE])


def test_the_first_round_waits_for_more_hosts_than_it_needs(tmp_path):
    meeting = Meeting(tmp_path, fewest=2, most=3)
    assert "1 host of the 2" in meeting.ask("b")["wait"]
    assert meeting.ask("a") == {"wait": ""}
    for _ in range(int(GATHER_SECONDS) - 1):
        meeting.now += 1
        assert meeting.ask("a", "b") == {"wait": ""}
    meeting.now += 1
    assert meeting.ask("a", "b")["hosts"] == ["a", "b"]


def test_with_as_many_hosts_as_it_takes_it_begins_at_once(tmp_path):
    meeting = Meeting(tmp_path, most=2)
    meeting.ask("c", "a")
    assert meeting.ask("c") == meeting.ask("c")
    assert meeting.ask("c")["hosts"] == ["a", "c"]  # the first one first
    assert meeting.ask("c")["peer"] == "10.0.0.97"
    assert meeting.ask("d") == {"wait": "the run has its 2 hosts; host d waits until one is lost"}
    assert not (tmp_path / "regroup").exists()


def test_the_others_go_on_without_a_lost_host_and_all_are_told_to_leave(meeting):
    key = meeting.begin("a", "b", "c")
    left = []
    meeting.rounds.on_trouble = lambda: left.append(True)
    assert meeting.report("b", key, ExitCode.PEER_LOST) == {"wait": ""}
    assert left
    word = meeting.report("a", key, ExitCode.PEER_LOST, c="silent for 30 s")
    assert word["hosts"] == ["a", "b"] and word["round"] != key
    assert cause(word)["cause"] == "host c failed: silent for 30 s"
    assert (cause(word)["attempt"], cause(word)["failed_nodes"], cause(word)["nodes"]) == (1, ["c"], ["a", "b"])


def test_a_host_that_says_no_more_after_a_round_is_not_waited_for(meeting, capfd):
    key = meeting.begin("a", "b")
    meeting.report("a", key, ExitCode.PEER_LOST)
    meeting.now += LIMIT + PATIENCE_SECONDS + 1
    assert meeting.report("a", key, ExitCode.PEER_LOST)["hosts"] == ["a"]
    assert "host b failed: it has not said how its part ended" in capfd.readouterr().err


def test_a_host_that_comes_is_taken_when_the_run_has_saved_itself(meeting, tmp_path, capfd):
    key = meeting.begin("a", "b")
    assert meeting.ask("c") == {"wait": "the run takes host c at its next checkpoint"}
    assert (tmp_path / "regroup").exists()
    assert "1 host more: c; the run takes them at its next checkpoint" in capfd.readouterr().err
    meeting.report("b", key, ExitCode.REGROUP)
    assert meeting.report("a", key, ExitCode.REGROUP)["hosts"] == ["a", "b", "c"]


def test_a_host_that_came_and_went_is_not_taken(meeting):
    key = meeting.begin("a")
    meeting.ask("c")
    meeting.now += PATIENCE_SECONDS
    assert meeting.report("a", key, ExitCode.REGROUP)["hosts"] == ["a"]


def test_a_host_that_is_asked_to_end_leaves_and_the_others_go_on(meeting):
    key = meeting.begin("a", "b")
    meeting.report("b", key, ExitCode.PREEMPTED, leaves=True)
    word = meeting.report("a", key, ExitCode.PREEMPTED)
    assert word["hosts"] == ["a"] and cause(word)["cause"] == "host b left" and cause(word)["failed_nodes"] == []


def test_a_host_whose_ranks_crash_is_named(meeting):
    key = meeting.begin("a", "b")
    meeting.report("b", key, 137, leaves=True)
    word = meeting.report("a", key, ExitCode.PEER_LOST)
    assert word["hosts"] == ["a"] and cause(word)["cause"] == "host b failed: its part ended with exit code 137"


@pytest.mark.parametrize(
    ("of_a", "of_b", "over"),
    [
        (ExitCode.DONE, ExitCode.DONE, ExitCode.DONE),
        (ExitCode.PEER_LOST, ExitCode.MISTAKE, ExitCode.MISTAKE),
        (ExitCode.MISTAKE, ExitCode.PEER_LOST, ExitCode.MISTAKE),
    ],
)
def test_when_the_run_is_over_all_hosts_are_told(meeting, of_a, of_b, over):
    key = meeting.begin("a", "b")
    meeting.report("a", key, of_a)
    assert meeting.report("b", key, of_b) == {"over": over}
    assert meeting.ask("a") == meeting.ask("c") == {"over": over}


def test_a_host_of_idle_ranks_does_not_end_the_run(meeting):
    """They exit with 0, whatever the others agree on."""
    key = meeting.begin("a", "b")
    meeting.report("a", key, ExitCode.DONE)
    assert meeting.report("b", key, ExitCode.REGROUP)["hosts"] == ["a", "b"]


def test_too_few_hosts_wait_and_give_up_in_the_end(tmp_path, capfd):
    meeting = Meeting(tmp_path, fewest=2, most=2)
    key = meeting.begin("a", "b")
    assert "1 host of the 2" in meeting.report("a", key, ExitCode.PEER_LOST, b="silent for 30 s")["wait"]
    meeting.now += JOIN_SECONDS + 1
    assert meeting.ask("a") == {"over": ExitCode.PEER_LOST}
    assert "1 host of the 2 that the run needs after 300 s" in capfd.readouterr().err


def test_rounds_that_fail_before_the_run_has_begun_are_given_up(meeting, tmp_path, capfd):
    key = meeting.begin("a")
    for _ in range(2):
        key = meeting.report("a", key, ExitCode.HUNG)["round"]
    assert meeting.report("a", key, ExitCode.HUNG) == {"over": ExitCode.MISTAKE}
    assert "a rank hung; 3 starts in a row failed before the run began" in capfd.readouterr().err


def test_attempts_are_counted_on_when_the_first_host_has_come_back(tmp_path):
    starts = [{"job": "a:29400", "restart": 0, "attempt": 4}]
    (tmp_path / "starts.json").write_text(json.dumps(starts))
    meeting = Meeting(tmp_path)
    meeting.begin("a")
    assert cause(meeting.ask("a"))["attempt"] == 5


def test_another_recipe_is_refused(meeting):
    word = meeting.ask("b", identity={"another recipe": "2"})
    assert word["refused"].startswith("host b has another recipe than the first one, at a:29400")


def test_a_command_that_was_given_twice_on_a_host_is_refused_in_the_end(meeting, tmp_path):
    """But not before the first one would be missed: the host may have been lost, and be back."""
    meeting.begin("a", "b")
    assert "another host b takes part, from 10.0.0.98" in meeting.ask("twice", name="b")["wait"]
    for _ in range(2 * LIMIT):
        meeting.now += 1
        meeting.ask("twice", name="b")
    meeting.now += 1
    assert "host b takes part already" in meeting.ask("twice", name="b")["refused"]
    assert not (tmp_path / "regroup").exists()


def test_a_lost_host_that_is_back_before_it_is_missed_takes_its_own_place(meeting):
    key = meeting.begin("a", "b")
    meeting.ask("back", name="b")
    word = meeting.report("a", key, ExitCode.PEER_LOST, b="silent for 30 s")
    assert word["hosts"] == ["a", "b"]
    assert meeting.ask("back", name="b")["round"] == word["round"]
