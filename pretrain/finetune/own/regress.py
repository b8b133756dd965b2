"""A number for a text, or for a pair of texts."""

import sys

import numpy as np

from model.errors import UserError
from pretrain.finetune.metrics import pearson, r2, spearman
from pretrain.finetune.own.classify import texts_of
from pretrain.finetune.own.columns import SENTENCES, Chosen
from pretrain.finetune.own.examples import Source, read_examples
from pretrain.finetune.own.table import Table
from pretrain.finetune.own.values import as_number
from pretrain.finetune.sentences import Example, Scale, Sentences


def open_regression(source: Source, max_length: int) -> Sentences:
    """Raises UserError where all numbers are equal, or a label is none."""
    rows = read_examples(source, SENTENCES, _row, lambda row: row.sentences)
    values = np.array([row.label for row in rows.train])
    if np.ptp(values) == 0:
        raise UserError(f"{source.data}: the label is {values[0]:g} in every row to train on; nothing to predict")
    scale = Scale(float(values.mean()), float(values.std()))
    print(f"espalier: labels from {values.min():g} to {values.max():g}, mean {scale.mean:.4g}", file=sys.stderr)
    metrics = {"pearson": pearson, "spearman": spearman, "r2": r2}
    return Sentences((), metrics, rows.train, {"dev": rows.dev}, rows.scored_on, max_length, scale)


def _row(table: Table, chosen: Chosen, row: int) -> Example | None:
    texts = texts_of(table, chosen, row)
    number = as_number(table.columns[chosen.label][row], table.where(row))
    return None if texts is None or number is None else Example(texts, number)
