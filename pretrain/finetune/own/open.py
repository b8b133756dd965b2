"""The tasks on a table of one's own, by name."""

from collections.abc import Callable
from pathlib import Path

from model.errors import UserError
from pretrain.finetune.own.classify import open_classification
from pretrain.finetune.own.examples import SHARE, Source
from pretrain.finetune.own.regress import open_regression
from pretrain.finetune.own.spans import open_spans
from pretrain.finetune.own.tags import open_tags
from pretrain.finetune.problem import Problem

OWN_TASKS: dict[str, Callable[[Source, int], Problem]] = {
    "classify": open_classification,
    "regress": open_regression,
    "spans": open_spans,
    "tags": open_tags,
}


def own_table(
    task: str,
    data: Path | None,
    valid: Path | None,
    valid_share: float | None,
    text: tuple[str, ...],
    label: str | None,
) -> Source | None:
    """None for a task of GLUE or SQuAD. Raises UserError for options that the task does not have."""
    if task not in OWN_TASKS:
        given = {"--valid": valid, "--valid-share": valid_share, "--text": text, "--label": label}
        if options := [option for option, value in given.items() if value]:
            raise UserError(f"{options[0]} is for a table of your own: --task {', '.join(OWN_TASKS)}")
        return None
    if data is None:
        raise UserError(f"--task {task} needs your table: --data FILE, a .csv, .tsv, .jsonl or .parquet")
    if len(text) > 2:
        raise UserError(f"--text {' '.join(text)} names {len(text)} columns; a model reads one text or two")
    if valid and valid_share is not None:
        raise UserError(f"--valid {valid} is held out already; leave out --valid-share {valid_share:g}")
    if valid_share is not None and not 0 < valid_share < 1:
        raise UserError(f"--valid-share {valid_share:g} must lie between 0 and 1")
    return Source(data, valid, valid_share or SHARE, text, label)
