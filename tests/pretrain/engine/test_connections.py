"""How many connections the ranks of a run keep: to the one store, and to each other beside NCCL."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from model.parallel import layout
from model.parallel.layout import ParallelLayout, data_parallel_group
from pretrain.engine import distributed
from pretrain.engine.distributed import host_group
from pretrain.launch.open_files import OF_A_RANK
from pretrain.recipe import Recipe
from pretrain.training.hooks.watchdog import Watchdog
from pretrain.training.train import train
from tests.support.tiny import tiny_recipe
from tests.support.workers import pool

ESTABLISHED = "01"


def at_the_store() -> set[str]:
    """The other ends of all connections that the store's process has accepted and not closed."""
    port, found = f":{int(os.environ['MASTER_PORT']):04X}", set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, remote, state, *_ = line.split()
            if local.endswith(port) and state == ESTABLISHED:
                found.add(remote)
    return found


def opened_by_a_run(recipe: Recipe, folder: Path) -> tuple[int, int]:
    """Connections before a run, and those that it opens and still has at its end."""
    dist.barrier()
    before, during = at_the_store(), []

    def on_end(self: Watchdog, trainer: object) -> None:
        during.append(at_the_store())
        dist.barrier()  # nobody has closed any yet
        original(self, trainer)

    original = Watchdog.on_end
    with patch.object(Watchdog, "on_end", on_end):
        train(recipe, folder)
    return len(before), len(during[0] - before)


def test_a_rank_keeps_two_connections_to_the_store(corpus, tmp_path):
    """One is torch's, one the watchdog's; checkpoints are written meanwhile. The store has sockets for all ranks."""
    recipe = tiny_recipe(corpus, stages=[{"name": "only", "steps": 5}], checkpoint={"every": 2})
    for before, opened in pool(2).run(opened_by_a_run, recipe, tmp_path / "run"):
        assert before >= 2
        assert opened == (OF_A_RANK - 1) * 2


def on_the_hosts() -> tuple[int, list[int], bool]:
    """As on GPUs, with two tensor-parallel ranks: groups made, the sum over the data-parallel ranks, and whether a
    group of all ranks is made once."""
    made, new_group = [], dist.new_group
    counting = patch.object(dist, "new_group", side_effect=lambda *a, **b: made.append(a) or new_group(*a, **b))
    with (
        patch.object(distributed, "computes_on_gpu", lambda: True),
        patch.object(distributed, "_host_groups", {}),
        patch.object(layout, "_places", {}),
    ):
        ParallelLayout(2, 2).install()
        with counting:
            group = host_group(data_parallel_group())
        total = torch.tensor([dist.get_rank()])
        dist.all_reduce(total, group=group)
        ParallelLayout(1, 4).install()
        is_shared = host_group(data_parallel_group()) is host_group()
    return len(made), total.tolist(), is_shared


def test_a_rank_makes_only_its_own_groups_on_the_hosts():
    assert pool(4).run(on_the_hosts) == [(1, [2], True), (1, [4], True), (1, [2], True), (1, [4], True)]


def num_sockets() -> int:
    return sum(os.readlink(file).startswith("socket:") for file in Path("/proc/self/fd").iterdir() if file.is_symlink())


@pytest.mark.parametrize("lazy", ["0", "1"])
def test_beside_nccl_a_rank_connects_to_few_others(monkeypatch, lazy):
    """Ranks are threads here. Without the variable that launch/environment.py sets each connects to all others."""
    monkeypatch.setenv("TORCH_GLOO_LAZY_INIT", lazy)
    num_ranks, store, before = 12, dist.HashStore(), num_sockets()

    def join(rank: int) -> dist.ProcessGroupGloo:
        group = dist.ProcessGroupGloo(store, rank, num_ranks, timedelta(seconds=60))
        total = torch.ones(3, dtype=torch.int64)
        group.allreduce([total]).wait()
        assert total.tolist() == [num_ranks] * 3
        return group

    with ThreadPoolExecutor(num_ranks) as ranks:
        groups = list(ranks.map(join, range(num_ranks)))
    opened = (num_sockets() - before) / len(groups)
    if lazy == "1":
        assert opened <= 8
    else:
        assert opened >= num_ranks - 1
