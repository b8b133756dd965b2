"""Parts of parameters reach their owners whole, whatever the layout, in few messages however many ranks there are."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.testing._internal.distributed.fake_pg import FakeStore

from growth.state import assign_owners
from model.config import BertConfig
from model.parallel import layout as layouts
from model.parallel.division import Cut, Division
from model.parallel.layout import ParallelLayout
from model.parallel.tensor import shard
from model.parameters import parameter_table
from pretrain.engine import gather as gathering
from pretrain.engine.gather import batches, gather
from pretrain.engine.scatter import scatter
from tests.support.harness import CONFIG
from tests.support.workers import pool

NUM_RANKS = 1024


@given(
    numels=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    num_ranks=st.integers(1, 9),
    padding=st.integers(0, 3),
)
def test_ranks_divide_a_shard_without_gaps(numels, num_ranks, padding):
    """As ZeRO 1 and 2 lay a group out: shards one after the other, equal runs of them, more than is needed."""
    run = -(-sum(numels) // num_ranks) + padding
    offset = 0
    for numel in numels:
        spans = [Cut(offset, run).span(rank, numel) for rank in range(num_ranks)]
        held = [element for start, count in spans for element in range(start, start + count)]
        assert held == list(range(numel))
        assert all(count <= run for _, count in spans)
        offset += numel


def collected(layout: ParallelLayout, batch: int, copied: bool) -> dict[str, bool]:
    """Cuts made up here: of each parameter its owner gets the tensor from which the ranks took their parts."""
    table = parameter_table(CONFIG)
    cuts = {}
    for number, name in enumerate(table):
        numel = torch.Size(table[name].local_shape(layout.tensor_parallel)).numel()
        run = -(-(numel + number) // layout.data_parallel)
        cuts[name] = Cut(0, numel, copied=True) if copied else Cut(offset=number, run=run)
    division = Division(table, layout, cuts)
    rank = dist.get_rank()
    whole, parts = {}, {}
    for number, (name, spec) in enumerate(table.items()):
        whole[name] = torch.arange(spec.numel, dtype=torch.float32).view(spec.shape) + number
        start, numel = division.held(name, rank)
        own = shard(spec, whole[name], rank % layout.tensor_parallel, layout.tensor_parallel)
        parts[name] = own.reshape(-1)[start : start + numel]
    owners = assign_owners(CONFIG, dist.get_world_size())
    with mock.patch.object(gathering, "BATCH", batch):
        got = dict(gather(table, division, owners, parts))
    assert got.keys() == {name for name, owner in owners.items() if owner == rank}
    back = dict(scatter(list(table), division, owners, got))
    for name, spec in table.items():
        start, numel = division.held(name, rank)
        own = shard(spec, whole[name], rank % layout.tensor_parallel, layout.tensor_parallel)
        expected = own.reshape(-1)[start : start + numel]
        assert torch.equal(back.pop(name), expected) if numel else name not in back, name
    assert not back
    return {name: torch.equal(tensor, whole[name]) for name, tensor in got.items()}


def test_owners_get_what_the_ranks_hold_and_the_ranks_get_it_back():
    for tensor_parallel in (1, 2, 4):
        for batch, copied in ((1, False), (5_000, False), (5_000, True), (10**9, False)):
            layout = ParallelLayout(tensor_parallel, 4 // tensor_parallel)
            found = pool(4).run(collected, layout, batch, copied)
            assert {name for rank in found for name in rank} == set(parameter_table(CONFIG))
            assert all(is_equal for rank in found for is_equal in rank.values()), (layout, batch, copied)


def test_of_equal_copies_an_owner_is_given_those_of_its_own_row_and_column():
    """Where every rank has all, nothing travels."""
    table = parameter_table(CONFIG)
    for size in (1, 2):
        numels = {name: torch.Size(spec.local_shape(size)).numel() for name, spec in table.items()}
        cuts = {name: Cut(0, numel, copied=True) for name, numel in numels.items()}
        division = Division(table, ParallelLayout(size, 8 // size), cuts)
        for name, spec in table.items():
            for owner in range(8):
                givers = [rank for rank in range(8) if division.span(name, rank, owner)[1]]
                row = range(owner - owner % size, owner - owner % size + size)
                assert givers == (list(row) if spec.tensor_parallel_axis is not None else [owner])


class Counted(Division):
    def span(self, name: str, rank: int, owner: int) -> tuple[int, int]:
        calls["spans"] += 1
        return super().span(name, rank, owner)

    def held(self, name: str, rank: int) -> tuple[int, int]:
        calls["held"] += 1
        return super().held(name, rank)


calls: Counter[str] = Counter()


@contextmanager
def one_of(num_ranks: int) -> Iterator[None]:
    """Rank 0 of them, with nobody to answer: its messages are counted."""

    def count(inbox: torch.Tensor, outbox: torch.Tensor, *_: list[int]) -> None:
        calls.update(messages=1, numel_in=inbox.numel(), numel_out=outbox.numel())

    calls.clear()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        with mock.patch.object(dist, "all_to_all_single", side_effect=count):
            yield
    finally:
        dist.destroy_process_group()


def test_a_thousand_ranks_exchange_a_few_messages_and_ask_for_nothing():
    """BERT-large under ZeRO 3. What a rank counts grows with ranks plus parameters, not with their product; what it
    receives on the way back is its part."""
    config = BertConfig.preset("large")
    table = parameter_table(config)
    cuts = {name: Cut(0, -(-spec.numel // NUM_RANKS)) for name, spec in table.items()}
    division = Counted(table, ParallelLayout(1, NUM_RANKS), cuts)
    owners = assign_owners(config, NUM_RANKS)
    parts = {name: torch.zeros(division.span(name, 0, owners[name])[1]) for name in table}
    with one_of(NUM_RANKS):
        got = dict(gather(table, division, owners, parts))
    assert list(got) == [name for name, owner in owners.items() if owner == 0]
    assert calls["messages"] <= 12
    assert calls["spans"] <= 4 * (NUM_RANKS + len(table))
    with one_of(NUM_RANKS):
        for names in batches(table, {name: spec.numel for name, spec in table.items()}, gathering.BATCH):
            list(scatter(names, division, owners, got))
    assert calls["messages"] <= 12
    assert calls["held"] <= 2 * (NUM_RANKS + len(table))
    assert calls["numel_in"] == sum(part.numel() for part in parts.values())
    assert calls["numel_out"] == sum(tensor.numel() for tensor in got.values())


def test_a_thousand_ranks_make_a_few_groups():
    made = []
    with one_of(NUM_RANKS):
        new_group = dist.new_group
        with mock.patch.object(dist, "new_group", side_effect=lambda *a, **b: made.append(a) or new_group(*a, **b)):
            ParallelLayout(1, NUM_RANKS).install()
            ParallelLayout(8, NUM_RANKS // 8).install()
    layouts.forget()
    assert len(made) == 4
