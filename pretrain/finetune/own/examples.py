"""Rows to examples, the common part of all tasks: what is missing is skipped and counted, a part is held out."""

import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from model.errors import UserError
from pretrain.finetune.own.columns import Chosen, Known, choose
from pretrain.finetune.own.split import held_out_rows
from pretrain.finetune.own.table import Table, read_table

T = TypeVar("T")
Read = Callable[[Table, Chosen, int], T | None]
"""A row to an example; None where its text or label is missing."""

SHARE = 0.1


@dataclass(frozen=True)
class Source:
    """Where the examples are, as the command line says it."""

    data: Path
    valid: Path | None = None
    valid_share: float = SHARE
    text: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Examples(Generic[T]):
    train: list[T]
    dev: list[T]
    scored_on: str
    """What `dev` is, in words."""


def read_examples(
    source: Source,
    known: Known,
    read: Read[T],
    text_of: Callable[[T], Hashable],
    group_of: Callable[[T], Hashable] = lambda _: 0,
) -> Examples[T]:
    """All examples, those to score on from a file of their own or held out of the table.

    Examples of equal `text_of` stay on one side, and `group_of` is divided evenly. Raises UserError for tables without
    examples.
    """
    table = read_table(source.data)
    chosen = choose(table, known, source.text, source.label)
    train = _read_all(table, chosen, read)
    if source.valid:
        other = read_table(source.valid)
        own = choose(other, known, chosen.texts, chosen.label)
        dev = _read_all(other, own, read)
        if in_both := len({text_of(one) for one in train} & {text_of(one) for one in dev}):
            print(f"espalier: warning: {in_both:,} texts of {source.valid} are trained on too", file=sys.stderr)
        return Examples(train, dev, str(source.valid))
    texts, groups = [text_of(one) for one in train], [group_of(one) for one in train]
    rows = held_out_rows(texts, groups, source.valid_share, str(source.data))
    return Examples(
        [one for row, one in enumerate(train) if row not in rows],
        [one for row, one in enumerate(train) if row in rows],
        f"{len(rows):,} examples held out of {source.data}",
    )


def _read_all(table: Table, chosen: Chosen, read: Read[T]) -> list[T]:
    read_rows = [read(table, chosen, row) for row in range(len(table))]
    examples = [example for example in read_rows if example is not None]
    if skipped := len(table) - len(examples):
        print(
            f"espalier: {table.path}: {skipped:,} of {len(table):,} rows skipped, their text or label is missing",
            file=sys.stderr,
        )
    if not examples:
        raise UserError(
            f"{table.path} has no row with both text and label; look at {', '.join(chosen.texts)} and {chosen.label}"
        )
    return examples
