"""Answers as spans of a text: questions, contexts and answers, as the columns of SQuAD."""

import json
from typing import Any

from model.errors import UserError
from pretrain.finetune.own.columns import SPANS, Chosen
from pretrain.finetune.own.examples import Source, read_examples
from pretrain.finetune.own.table import Table
from pretrain.finetune.own.values import is_missing
from pretrain.finetune.squad import Question, Squad, aligned

START = "answer_start"
"""Where in the context an answer begins, in characters. Without this column it is looked for."""


def open_spans(source: Source, max_length: int) -> Squad:
    """Raises UserError where no answer is in its text."""
    if len(source.text) not in (0, 2):
        raise UserError(
            f"--task spans needs two columns, --text QUESTION CONTEXT; --text {' '.join(source.text)} is another number"
        )
    rows = read_examples(source, SPANS, _question, lambda question: question.context)
    return Squad(aligned(rows.train, str(source.data)), rows.dev, max_length, rows.scored_on)


def _question(table: Table, chosen: Chosen, row: int) -> Question | None:
    """None without a question or a text. A question without an answer has none in its text."""
    question, context = (table.columns[name][row] for name in chosen.texts)
    if is_missing(question) or is_missing(context):
        return None
    answers, starts = _answers(table, chosen, row)
    if not starts:
        starts = [context.find(answer) for answer in answers]
    return Question.of(str(row), question, context, answers, starts)


def _answers(table: Table, chosen: Chosen, row: int) -> tuple[list[str], list[int]]:
    """Texts, and where they begin if the table says it. SQuAD's own are `{"text": [...], "answer_start": [...]}`."""
    cell = table.columns[chosen.label][row]
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        cell = _from_json(cell, table.where(row))
    if isinstance(cell, dict):
        texts, starts = ([*each] for each in (cell.get("text") or [], cell.get(START) or []))
        return texts, starts if len(starts) == len(texts) else []
    if is_missing(cell):
        return [], []
    start = table.columns.get(START, {row: None})[row]
    return [str(cell)], [] if is_missing(start) else [_place(start, table.where(row))]


def _from_json(cell: str, where: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        raise UserError(f"{where}: {cell[:40]!r} is not JSON; write an answer as its text") from None


def _place(start: Any, where: str) -> int:
    try:
        return int(float(start))
    except (TypeError, ValueError):
        raise UserError(f"{where}: {START} {start!r} is not a number of characters") from None
