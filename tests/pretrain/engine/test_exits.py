"""Errors of collectives that mean that another rank is gone. The real thing: tests/whole/slurm/test_jobs.py."""

import pytest

from pretrain.engine.exits import lost_peer


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.77.0.12]:42312",
            "Connection closed by peer [10.77.0.12]:42312",
        ),
        ("NCCL error: remote process exited or there was a network error, NCCL version 2.27", "remote process exited"),
        ("Read error [10.77.0.12]:42312: Connection reset by peer", "Connection reset by peer"),
    ],
)
def test_a_broken_connection_is_known(error, known):
    lost = lost_peer(RuntimeError(error))
    assert lost is not None and f"({known}" in str(lost)


def test_other_errors_are_left_alone():
    assert lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied (8x32 and 64x32)")) is None
