"""Whether somebody trains in a folder: by its lease, or by an earlier version's lock."""

import fcntl
import os
import time

from pretrain.lease import LEASES, Start
from pretrain.lease.record import file_of
from pretrain.runs.liveness import is_held


def test_a_lease_is_held_until_it_is_given_back(tmp_path):
    assert not is_held(tmp_path)
    start = Start.claim(tmp_path / LEASES, 1)
    assert is_held(tmp_path)
    start.end()
    assert not is_held(tmp_path)


def test_a_lease_that_nobody_renews_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.lease.start.RENEWAL_SECONDS", 300)
    start = Start.claim(tmp_path / LEASES, 1)
    long_ago = time.time() - 60
    os.utime(file_of(tmp_path / LEASES, 1), (long_ago, long_ago))
    assert not is_held(tmp_path)
    start.end()


def test_the_lock_of_an_earlier_version(tmp_path):
    with (tmp_path / "lock").open("w") as file:
        assert not is_held(tmp_path)
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_held(tmp_path)
