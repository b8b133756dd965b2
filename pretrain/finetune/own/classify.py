"""Classes of texts, or of pairs of texts."""

import sys
from collections import Counter

from model.errors import UserError
from pretrain.finetune.metrics import accuracy, macro_f1
from pretrain.finetune.own.columns import SENTENCES, Chosen
from pretrain.finetune.own.examples import Source, read_examples
from pretrain.finetune.own.table import Table
from pretrain.finetune.own.values import as_name, in_order, is_missing
from pretrain.finetune.sentences import Example, Sentences

Row = tuple[tuple[str, ...], str]
"""Its texts, and its class."""
UNKNOWN = -1
"""A class that training never shows: never predicted, so counted as wrong."""


def open_classification(source: Source, max_length: int) -> Sentences:
    """Raises UserError where there is one class, or nearly as many as texts."""
    rows = read_examples(source, SENTENCES, _row, lambda row: row[0], lambda row: row[1])
    counts = Counter(name for _, name in rows.train)
    if len(counts) < 2:
        only = next(iter(counts))
        raise UserError(f"{source.data}: the label is {only!r} in every row to train on; nothing to tell apart")
    if len(counts) > len(rows.train) / 2 and len(counts) > 20:
        raise UserError(
            f"{source.data}: {len(counts):,} different labels in {len(rows.train):,} rows are too many to be classes; "
            "name another column by --label, or predict numbers by --task regress"
        )
    labels = in_order(set(counts))
    place = {name: number for number, name in enumerate(labels)}
    if new := sorted({name for _, name in rows.dev} - set(labels)):
        print(
            f"espalier: warning: {rows.scored_on} has labels that training never shows, which count as wrong: "
            f"{', '.join(new[:5])}",
            file=sys.stderr,
        )
    most, _ = counts.most_common(1)[0]
    share = sum(name == most for _, name in rows.dev) / len(rows.dev)
    print(f"espalier: {len(labels)} classes; always {most!r} would have accuracy {share:.4g}", file=sys.stderr)
    train, dev = ([Example(texts, place.get(name, UNKNOWN)) for texts, name in part] for part in (rows.train, rows.dev))
    metrics = {"accuracy": accuracy, "macro_f1": macro_f1}
    return Sentences(labels, metrics, train, {"dev": dev}, rows.scored_on, max_length)


def _row(table: Table, chosen: Chosen, row: int) -> Row | None:
    texts = texts_of(table, chosen, row)
    label = table.columns[chosen.label][row]
    return None if texts is None or is_missing(label) else (texts, as_name(label))


def texts_of(table: Table, chosen: Chosen, row: int) -> tuple[str, ...] | None:
    """None if one of them is missing or empty."""
    cells = [table.columns[name][row] for name in chosen.texts]
    return None if any(map(is_missing, cells)) else tuple(str(cell).strip() for cell in cells)
