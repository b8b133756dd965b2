import pytest
import torch
import torch.distributed as dist

from tests.support.workers import pool


def rank_sum() -> float:
    total = torch.tensor(float(dist.get_rank()))
    dist.all_reduce(total)
    return total.item()


def fail_on_last_rank() -> None:
    if dist.get_rank() == dist.get_world_size() - 1:
        raise RuntimeError("on purpose")
    dist.barrier()


def test_every_rank_answers():
    assert pool(2).run(rank_sum) == [1.0, 1.0]


def test_a_failing_rank_shows_its_traceback_and_the_pool_recovers():
    with pytest.raises(AssertionError, match="on purpose"):
        pool(2).run(fail_on_last_rank)
    assert pool(2).run(rank_sum) == [1.0, 1.0]
