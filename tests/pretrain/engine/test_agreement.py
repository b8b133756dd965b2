"""Ranks wait for rank 0 without a collective, which would give up after a while."""

import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch.distributed as dist

from model.errors import UserError
from pretrain.engine import agreement
from pretrain.engine.exits import Stop
from tests.support.workers import pool


def wait_for_rank_0(file: Path) -> tuple[bool, str]:
    """Whether rank 0 had acted when this rank entered a collective; and what all ranks stop with the next time."""
    gather, acted = dist.all_gather_object, []

    def act() -> None:
        time.sleep(0.5)
        file.touch()

    def fail() -> None:
        raise UserError("the folder is another job's")

    def gathering(*arguments) -> None:
        acted.append(file.exists())
        gather(*arguments)

    with patch.object(dist, "all_gather_object", gathering):
        agreement.rank_0_first(act)
    with pytest.raises(Stop) as stopped:
        agreement.rank_0_first(fail)
    return acted[0], str(stopped.value)


def test_no_rank_is_in_a_collective_while_rank_0_acts(tmp_path):
    assert pool(2).run(wait_for_rank_0, tmp_path / "acted") == [(True, "the folder is another job's")] * 2
