"""Why a run was started again, as its journal has it. The rest of the journal: tests/pretrain/runs/test_status.py."""

import json

import pytest

from pretrain.launch.survivors import CAUSE
from pretrain.training.hooks import journal


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.delenv(CAUSE, raising=False)


def test_what_the_start_before_has_written_or_its_launcher():
    failure = {"event": "failure", "cause": "a rank hung", "node": "node2"}
    entries = [{"event": "start"}, failure, {"event": "requeued"}]
    assert journal._cause(entries) == {"cause": "a rank hung", "node": "node2"}
    assert journal._cause([*entries, {"event": "restart"}, {"event": "stage"}])["cause"] == journal.UNKNOWN


def test_a_launcher_that_goes_on_within_its_job_knows_best(monkeypatch):
    told = {
        "attempt": 1,
        "nodes": ["node1"],
        "cause": "node node3 failed: it has been silent for 30 s",
        "failed_nodes": ["node3"],
    }
    monkeypatch.setenv(CAUSE, json.dumps(told))
    assert journal._cause([{"event": "start"}]) == {"cause": told["cause"], "node": "node3"}
    monkeypatch.setenv(CAUSE, json.dumps({"attempt": 0}))  # the first start of a job that was requeued
    assert journal._cause([{"event": "start"}])["cause"] == journal.UNKNOWN
