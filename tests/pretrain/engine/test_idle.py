"""Ranks that a run cannot use know how it has ended. That they change nothing: tests/pretrain/training."""

import pytest
import torch.distributed as dist

from pretrain.engine import idle
from pretrain.engine.exits import Stop
from pretrain.launch.outcome import CODE_FILE, ExitCode


@pytest.mark.parametrize("code", [ExitCode.DONE, ExitCode.PREEMPTED])
def test_an_idle_rank_leaves_the_code_of_the_run(monkeypatch, tmp_path, code):
    """A job whose first node has only such ranks would take a run that saved itself for one that has ended."""
    store = dist.HashStore()
    monkeypatch.setattr(idle, "_store", lambda: store)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    if code:
        with pytest.raises(Stop), idle.first_ranks(2):
            raise Stop("saved", code)
    else:
        with idle.first_ranks(2) as is_used:
            assert is_used
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv(CODE_FILE, str(tmp_path / "code"))
    with idle.first_ranks(2) as is_used:
        assert not is_used
    assert int((tmp_path / "code").read_text()) == code
