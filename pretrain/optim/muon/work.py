"""What a step of Muon asks of a rank, for `plan`: counted on the homes and rounds that the step follows. No torch."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from pretrain.optim.groups import GroupRules
from pretrain.optim.muon.homes import Homes, Round, Spans
from pretrain.optim.muon.matrices import update_products
from pretrain.optim.muon.traffic import division
from pretrain.optim.options import StepWork

COMPUTED_WITH = 6
"""Tensors as large as a round that computing it takes: its matrices, side by side and of norm one, their product and
its sum with the square, and the product with that."""


@lru_cache(maxsize=256)
def work_of(
    config: BertConfig, layout: ParallelLayout, zero_stage: int, rules: GroupRules, heads_apart: bool, steps: int
) -> StepWork:
    homes = Homes.of(division(config, layout, zero_stage, rules), heads_apart, steps)
    loads = homes.loads()
    busiest = loads.index(max(loads))
    of_ranks = [homes.rounds(rank) for rank in range(len(loads))]
    times: Counter[tuple[int, int, int]] = Counter()
    for homed in homes.matrices:
        if homed.home == busiest:
            for m, k, n, count in update_products(homed.matrix.size, steps):
                times[m, k, n] += count
    return StepWork(
        products=tuple((m, k, n, count) for (m, k, n), count in times.items()),
        exchanged=tuple(_exchanged(list(zip(*of_ranks, strict=True)))),
        scratch_numel=max(_most_held(rounds) for rounds in of_ranks),
    )


def _exchanged(turns: Sequence[Sequence[Round]]) -> Iterator[int]:
    """turns: of each round, what every rank does. In the order of sending: one round comes in before the one ahead of
    it goes back."""
    for index, turn in enumerate([*turns, ()]):
        if any(round.is_gathered for round in turn):
            yield max(max(_numel(round.given), _numel(round.gathered)) for round in turn)
        before = turns[index - 1] if index else ()
        if any(round.is_returned for round in before):
            yield max(max(_numel(round.returned), _numel(round.taken)) for round in before)


def _most_held(rounds: Sequence[Round]) -> int:
    """Elements of one rank: a round that is computed, the messages of this and the next that come in, and those of
    this and the one before that go back; at both ends of each."""
    most = 0
    for index, round in enumerate(rounds):
        coming, going = rounds[index : index + 2], rounds[max(index - 1, 0) : index + 1]
        computed = COMPUTED_WITH * sum(matrix.numel for matrix in round.homed)
        travelling = sum(_numel(each.given) + _numel(each.gathered) for each in coming)
        travelling += sum(_numel(each.returned) + _numel(each.taken) for each in going)
        most = max(most, computed + travelling)
    return most


def _numel(spans: Spans) -> int:
    return sum(span.numel for part in spans.values() for span in part)
