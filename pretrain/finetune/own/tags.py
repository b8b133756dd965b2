"""A tag for every word: lists of words, and of their tags."""

from collections import Counter

from model.errors import UserError
from pretrain.finetune.own.columns import TAGS, Chosen
from pretrain.finetune.own.examples import Source, read_examples
from pretrain.finetune.own.table import Table
from pretrain.finetune.own.values import as_list, as_name, in_order, is_missing
from pretrain.finetune.tags import Tagged, Tags


def open_tags(source: Source, max_length: int) -> Tags:
    """Raises UserError where words and tags are not equally many, or there is one tag."""
    if len(source.text) > 1:
        raise UserError(
            f"--task tags needs one column of words; --text {' '.join(source.text)} names {len(source.text)}"
        )
    rows = read_examples(source, TAGS, _tagged, lambda row: row.words)
    counts = Counter(tag for row in rows.train for tag in row.tags)
    if len(counts) < 2:
        raise UserError(
            f"{source.data}: the tag is {next(iter(counts))!r} for every word to train on; nothing to tell apart"
        )
    return Tags(in_order(set(counts)), rows.train, rows.dev, rows.scored_on, max_length)


def _tagged(table: Table, chosen: Chosen, row: int) -> Tagged | None:
    cells = [table.columns[name][row] for name in (*chosen.texts, chosen.label)]
    if any(map(is_missing, cells)):
        return None
    words, tags = (as_list(cell, table.where(row)) for cell in cells)
    if len(words) != len(tags):
        raise UserError(f"{table.where(row)} has {len(words)} words and {len(tags)} tags; give each word one")
    return Tagged(tuple(map(str, words)), tuple(map(as_name, tags))) if words else None
