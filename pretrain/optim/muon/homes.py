"""Where each matrix is put together and orthogonalized, and which elements travel for that.

Every matrix has one *home*, a rank. It stays where it already lies whole; the others go where there is least to
compute so far, over all data-parallel and tensor-parallel ranks. Everybody works out the same from the layout alone.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from model.parallel.division import Division
from pretrain.optim.muon.matrices import ROUND_NUMEL, Matrix, matrices_of, update_flops


@dataclass(frozen=True)
class Span:
    """Some elements of a matrix: start .. start + numel of the flattened shard of one tensor-parallel rank."""

    matrix: Matrix
    shard: int
    """Index among the shards of the matrix."""
    start: int
    numel: int


Spans = dict[int, list[Span]]
"""By the rank that they come from or go to, which is never the own one."""


@dataclass
class Round:
    """What one rank does with the matrices that travel together."""

    homed: list[Matrix] = field(default_factory=list)
    """Those that are put together here."""
    kept: list[Span] = field(default_factory=list)
    """Of those, what lies here already."""
    gathered: Spans = field(default_factory=lambda: defaultdict(list))
    """Of those, what comes from other ranks."""
    returned: Spans = field(default_factory=lambda: defaultdict(list))
    """Of those, what goes to other ranks once they are orthogonal: to all that hold it."""
    given: Spans = field(default_factory=lambda: defaultdict(list))
    """What goes to other homes. Of equal copies, each home asks for the nearest."""
    taken: Spans = field(default_factory=lambda: defaultdict(list))
    """What comes back from there."""
    is_gathered: bool = False
    """Whether anything travels to a home, between any two ranks: a message that all have to take part in."""
    is_returned: bool = False


@dataclass(frozen=True)
class Homed:
    """A matrix, its home, and who holds which elements of it."""

    matrix: Matrix
    home: int
    held: Mapping[int, Span]
    """By rank."""
    given: frozenset[int]
    """The ranks that send theirs to the home."""

    @property
    def travels(self) -> bool:
        return any(rank != self.home for rank in self.held)


@dataclass(frozen=True)
class Homes:
    division: Division
    matrices: Sequence[Homed]
    steps: int
    """Of the Newton-Schulz iteration."""

    @classmethod
    def of(cls, division: Division, heads_apart: bool, steps: int) -> "Homes":
        """For all matrices of layers that are trained."""
        layout = division.layout
        num_ranks = layout.tensor_parallel * layout.data_parallel
        specs = [division.table[name] for name in division.cuts]
        matrices = list(matrices_of(specs, heads_apart, layout.tensor_parallel))
        spans = [_spans(division, matrix, num_ranks) for matrix in matrices]
        whole_on = [
            [rank for rank, span in held.items() if span.numel == matrix.numel]
            for matrix, held in zip(matrices, spans, strict=True)
        ]
        cost = [update_flops(matrix.size, steps) for matrix in matrices]
        load = [0] * num_ranks
        home: dict[int, int] = {}
        # First those that have no choice, then the most expensive.
        for index in sorted(range(len(matrices)), key=lambda index: (len(whole_on[index]) != 1, -cost[index], index)):
            home[index] = min(whole_on[index] or range(num_ranks), key=lambda rank: (load[rank], rank))
            load[home[index]] += cost[index]
        homed = [
            Homed(matrix, home[index], held, _givers(division, matrix, home[index], held))
            for index, (matrix, held) in enumerate(zip(matrices, spans, strict=True))
        ]
        return cls(division, homed, steps)

    def rounds(self, rank: int) -> list[Round]:
        """What this rank does, in order: first what lies whole, while the first of the others travel."""
        found: list[Round] = []
        numels: dict[int, list[int]] = defaultdict(list)  # of each home's rounds
        for homed in sorted(self.matrices, key=lambda homed: homed.travels):
            of_home = numels[homed.home]
            if not of_home or of_home[-1] + homed.matrix.numel > ROUND_NUMEL:
                of_home.append(0)
            of_home[-1] += homed.matrix.numel
            if len(of_home) > len(found):
                found.append(Round())
            _enter(found[len(of_home) - 1], homed, rank)
        return found

    def loads(self) -> list[int]:
        """FLOPs of a step on each rank."""
        load = [0] * (self.division.layout.tensor_parallel * self.division.layout.data_parallel)
        for homed in self.matrices:
            load[homed.home] += update_flops(homed.matrix.size, self.steps)
        return load


def _enter(round: Round, homed: Homed, rank: int) -> None:
    """A matrix in a round, as one rank sees it."""
    home = homed.home
    round.is_gathered |= bool(homed.given)
    round.is_returned |= homed.travels
    if rank == home:
        round.homed.append(homed.matrix)
        for other, span in homed.held.items():
            if other == home:
                round.kept.append(span)
                continue
            round.returned[other].append(span)
            if other in homed.given:
                round.gathered[other].append(span)
    elif rank in homed.held:
        round.taken[home].append(homed.held[rank])
        if rank in homed.given:
            round.given[home].append(homed.held[rank])


def _spans(division: Division, matrix: Matrix, num_ranks: int) -> dict[int, Span]:
    """Who holds what of a matrix."""
    tp, found = division.layout.tensor_parallel, {}
    is_split = matrix.spec.tensor_parallel_axis is not None
    for rank in range(num_ranks):
        if matrix.shard in (None, rank % tp):
            start, numel = division.held(matrix.name, rank)
            if numel:
                found[rank] = Span(matrix, rank % tp if is_split else 0, start, numel)
    return found


def _givers(division: Division, matrix: Matrix, home: int, held: Mapping[int, Span]) -> frozenset[int]:
    """Of equal copies, those in the home's own row and column of ranks."""
    tp = division.layout.tensor_parallel
    in_every_column = matrix.spec.tensor_parallel_axis is None and matrix.shard is None
    in_every_row = division.cuts[matrix.name].copied
    return frozenset(
        rank
        for rank in held
        if rank != home
        and (rank % tp == home % tp or not in_every_column)
        and (rank // tp == home // tp or not in_every_row)
    )
