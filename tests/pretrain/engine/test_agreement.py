"""Ranks wait for rank 0 without a collective, which would give up after a while, and agree in few words."""

import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch.distributed as dist

from model.errors import UserError
from pretrain.engine import agreement
from pretrain.engine.exits import Stop
from pretrain.simulation.messages import Sent, recorded
from tests.support.workers import pool


def wait_for_rank_0(file: Path) -> tuple[bool, str]:
    """Whether rank 0 had acted when this rank entered a collective; and what all ranks stop with the next time."""
    reduce, acted = dist.all_reduce, []

    def act() -> None:
        time.sleep(0.5)
        file.touch()

    def fail() -> None:
        raise UserError("the folder is another job's")

    def reducing(*arguments) -> None:
        acted.append(file.exists())
        reduce(*arguments)

    with patch.object(dist, "all_reduce", reducing):
        agreement.rank_0_first(act)
    with pytest.raises(Stop) as stopped:
        agreement.rank_0_first(fail)
    return acted[0], str(stopped.value)


def test_no_rank_is_in_a_collective_while_rank_0_acts(tmp_path):
    assert pool(2).run(wait_for_rank_0, tmp_path / "acted") == [(True, "the folder is another job's")] * 2


def said(*texts: str | None) -> tuple[str | None, list[Sent]]:
    """What ranks agree on where each says its text, and what this one sends for it."""
    with recorded() as sent:
        message = agreement.first_message(texts[dist.get_rank()])
    return message, sent


def test_where_no_rank_has_anything_to_say_all_sum_one_number():
    assert pool(2).run(said, None, None) == [(None, [Sent("all-reduce", 2, 8)])] * 2


@pytest.mark.parametrize("texts", [("disk full", None), (None, "disk full"), ("disk full", "not readable")])
def test_the_message_of_the_first_rank_that_says_anything_is_everyones(texts):
    assert [message for message, _ in pool(2).run(said, *texts)] == ["disk full"] * 2
