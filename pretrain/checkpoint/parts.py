"""Which rank writes which part of a state: as many bytes each, large parameters by rows.

A record lies whole on its owner. If owners wrote what they own, then of a thousand ranks most would write next to
nothing, into hundreds of small files, while all wait for the one that has the word embedding.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

from growth.state import TrainingState, kinds_of
from model.config import BertConfig
from model.lazy import Tensor
from model.parameters import parameter_table

AT_ONCE = 64
"""Ranks that write however small the state is, if there are as many."""

FULL = 2**22
"""Elements of the parameters in a file, beyond that many files, and of the largest that is never divided: 48 MiB with
both moments."""


class Piece(NamedTuple):
    """Some rows of a parameter, along the first axis of its logical tensor."""

    name: str
    first: int
    rows: int


@dataclass
class Parts:
    """A state as the files of a checkpoint hold it."""

    config: BertConfig
    steps: Mapping[str, int]
    with_one_moment: Set[str]
    writers: Mapping[Piece, int]
    """In model order, those of a parameter from its first row on. The same on every rank."""
    tensors: dict[Piece, list[Tensor]] = field(default_factory=dict)
    """Of the pieces that this rank writes: weight and moments, [rows, ...] each."""

    @classmethod
    def of(cls, state: TrainingState) -> "Parts":
        """Each owner writes its records."""
        table = parameter_table(state.config)
        whole = {name: Piece(name, 0, spec.shape[0]) for name, spec in table.items()}
        writers = {whole[name]: state.owners[name] for name in table}
        tensors = {whole[name]: record.tensors() for name, record in state.records.items()}
        return cls(state.config, state.steps, state.with_one_moment, writers, tensors)

    def kinds(self, name: str) -> tuple[str, ...]:
        """The names of the tensors in a record."""
        return kinds_of(name, self.with_one_moment)


def divided(config: BertConfig, num_ranks: int) -> dict[Piece, int]:
    """Who writes what, by `Parts.writers`: the largest first, each to the writer with the fewest bytes so far.

    A parameter of no more than an even share stays whole. Where all are and all ranks write, owners write (see
    `assign_owners`).
    """
    table = parameter_table(config)
    total = sum(spec.numel for spec in table.values())
    num_writers = min(num_ranks, max(AT_ONCE, ceil(total / FULL)))
    share = max(FULL, ceil(total / num_writers))
    pieces: dict[Piece, int] = {}
    for name, spec in table.items():
        num_rows, row_numel = spec.shape[0], spec.numel // spec.shape[0]
        rows = ceil(num_rows / ceil(spec.numel / share))
        for first in range(0, num_rows, rows):
            pieces[Piece(name, first, min(rows, num_rows - first))] = min(rows, num_rows - first) * row_numel
    load = [0] * num_writers
    writers: dict[Piece, int] = {}
    taken: dict[str, set[int]] = {name: set() for name in table}
    for piece in sorted(pieces, key=lambda piece: (-pieces[piece], piece)):
        free = (writer for writer in range(num_writers) if writer not in taken[piece.name])
        writer = min(free, key=lambda writer: load[writer])  # a file has one piece of a parameter
        load[writer] += pieces[piece]
        taken[piece.name].add(writer)
        writers[piece] = writer * num_ranks // num_writers
    return {piece: writers[piece] for piece in pieces}
