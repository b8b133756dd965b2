"""What a rank does does not grow with the number of ranks, or as docs/performance.md says."""

from collections import Counter, defaultdict

import pytest

from growth.state import assign_owners
from model.config import BertConfig
from pretrain.checkpoint.parts import divided
from pretrain.recipe import resolve
from pretrain.simulation.group import only_rank
from pretrain.simulation.messages import Sent
from pretrain.simulation.rank import SimulatedRank
from tests.support.made_up import made_up_recipe

FEW, MANY = 128, 512
LARGE = BertConfig.preset("large")
STAGES = [
    {"name": "small", "steps": 1},
    {"name": "deep", "steps": 1, "grow": "stack", "shape": {"layers": 2}},
]


def counted(zero: int, num_ranks: int) -> dict[str, Counter[Sent]]:
    """What rank 0 sends, which owns the largest parameter."""
    recipe = made_up_recipe(
        "growth",
        len(STAGES),
        model=dict(layers=1, hidden=256, heads=4, ffn=256, max_positions=32),
        stages=STAGES,
        sequence=32,
        batch={"global": MANY},
        precision="bf16",
        deepspeed=f"ds_configs/zero{zero}.json",
    )
    run = resolve(recipe, 1024, num_ranks)
    with only_rank(0, num_ranks):
        return {event.name: event.sent for event in SimulatedRank(run, None, on_cpu=False).events()}


@pytest.mark.parametrize("zero", [1, 3])
def test_four_times_the_ranks_send_as_many_messages_and_bytes(zero):
    """But for the elements that fill up what does not divide by the number of ranks."""
    few, many = counted(zero, FEW), counted(zero, MANY)
    assert few.keys() == many.keys() and len(few) == 6
    for name, sent in many.items():
        assert kinds(sent) == kinds(few[name]), name
        assert num_bytes(sent) <= 1.1 * num_bytes(few[name]), name


def kinds(sent: Counter[Sent]) -> Counter[str]:
    found: Counter[str] = Counter()
    for each, times in sent.items():
        found[each.kind] += times
    return found


def num_bytes(sent: Counter[Sent]) -> int:
    return sum(each.num_bytes * times for each, times in sent.items())


@pytest.mark.parametrize("num_ranks", [64, 256, 1024, 4096])
def test_a_rank_reads_few_of_the_files_that_hold_what_it_owns(num_ranks):
    """Of BERT-large. How many there are, tests/pretrain/checkpoint/test_parts.py says."""
    writers, owners = divided(LARGE, num_ranks), assign_owners(LARGE, num_ranks)
    opened = defaultdict(set)
    for piece, writer in writers.items():
        opened[owners[piece.name]].add(writer)
    assert max(map(len, opened.values())) <= 14
