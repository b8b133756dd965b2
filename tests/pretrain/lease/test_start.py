"""A start may write as long as it is the newest."""

import os
import subprocess
import sys
import time
from unittest.mock import patch

import pytest

from pretrain.lease import Lease, Start, newest_lease, read_leases
from pretrain.lease.record import FILE_BYTES
from tests.support.launching import HOME

OLDER = """
import sys, time
from pathlib import Path
from pretrain.lease import Start, start
start.RENEWAL_SECONDS = 0.05
held = Start.claim(Path(sys.argv[1]), 1)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    held = Start.claim(tmp_path / "leases", 1)
    yield held
    held.end()


def test_a_number_is_claimed_once(start):
    with pytest.raises(FileExistsError):
        Start.claim(start.folder, 1)


def test_its_lease_says_where_it_began_and_that_it_ended(start):
    assert newest_lease(start.folder).began_at is None
    start.begin(8)
    start.begin(12)  # after a rollback, to a checkpoint of its own
    assert newest_lease(start.folder).began_at == 8
    start.begin(4)  # or to an earlier one
    start.end()
    assert newest_lease(start.folder).began_at == 4
    assert newest_lease(start.folder).ended
    assert (start.folder / "00001.json").stat().st_size == FILE_BYTES
    assert [lease.holder for lease in read_leases(start.folder)] == [newest_lease(start.folder).holder]


def test_it_is_renewed_and_on_a_full_disk_its_date_at_least(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.lease.start.RENEWAL_SECONDS", 0.05)
    start = Start.claim(tmp_path / "leases", 1)
    while newest_lease(start.folder).renewals < 2:
        time.sleep(0.02)
    with patch.object(Start, "_change", side_effect=OSError(28, "No space left on device")):
        time.sleep(0.2)  # for a renewal that was under way
        os.utime(start.folder / "00001.json", (1, 1))
        while (start.folder / "00001.json").stat().st_mtime == 1:
            time.sleep(0.02)
    start.end()


def test_an_older_start_that_finds_a_newer_one_ends_in_one_line(tmp_path):
    command = [sys.executable, "-c", OLDER, str(tmp_path / "leases")]
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True) as older:
        assert older.stdout.readline() == "held\n"
        newer = Lease(2, host="node2", process=9, since="today")
        (tmp_path / "leases" / "00002.json").write_text(newer.text())
        _, said = older.communicate(timeout=60)
    assert older.returncode == 2
    assert said == (
        f"espalier: the run in {tmp_path} was taken over (start 2, process 9 on node2, since today); start 1 stops\n"
    )


def test_what_an_older_start_has_not_finished_is_taken_from_it(tmp_path, start):
    """So that it cannot finish it, though it has just made sure that it is the newest."""
    other, folder = tmp_path / "latest", tmp_path / "step-00000008"
    start.partial(other).write_text("older")
    start.partial(folder).mkdir()
    newer = Start.claim(start.folder, 2)
    newer.partial(other).write_text("newer")
    newer.take_over([tmp_path])
    with patch.object(Start, "check"):
        for path in (other, folder):
            with pytest.raises(FileNotFoundError):
                start.finish(path)
        newer.finish(other)
    assert other.read_text() == "newer"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("latest", "step-00000008.partial", "leases"),
    }
    newer.end()
