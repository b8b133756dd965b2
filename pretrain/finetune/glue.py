"""GLUE's tasks of one or two sentences, from its files or the Hub."""

import contextlib
import sys
from pathlib import Path

import numpy as np

from model.errors import UserError
from pretrain.finetune.sentences import Dev, Example, Sentences
from pretrain.finetune.tasks import GlueTask
from pretrain.finetune.text import read_text

HELD_OUT_SHARE = 0.1
"""Share of train.tsv that is held out and scored if dev.tsv is missing and the task allows that."""
HIGHEST_SIMILARITY = 5.0
"""STS-B, the only regression task, scores similarity from 0 to this."""


def open_glue(task: GlueTask, data: Path | None, max_length: int) -> Sentences:
    """From GLUE's files in `data` (the task's folder, or the one that holds it), else from the Hub.

    Raises UserError when there is neither, and for files that are not as GLUE writes them.
    """
    read = _read_hub(task) if data is None else _read_files(task, data)
    return Sentences(task.labels, task.metrics, *read, max_length)


def _read_files(task: GlueTask, data: Path) -> tuple[list[Example], Dev, str]:
    folder = data / task.folder if (data / task.folder).is_dir() else data
    if not (folder / "train.tsv").is_file():
        raise UserError(f"{data} holds no {task.folder}/train.tsv; name a folder with GLUE's files by --data")
    missing = [f"{name}.tsv" for name in task.dev if not (folder / f"{name}.tsv").is_file()]
    if missing and not task.may_lack_dev:
        raise UserError(f"{folder} has no {missing[0]}, which {task.folder} is scored on; put GLUE's file there")
    train = _examples(task, folder / "train.tsv")
    if missing:
        return *_hold_out(train, folder), "a tenth of train.tsv"
    return train, {name: _examples(task, folder / f"{name}.tsv") for name in task.dev}, "the dev set"


def _hold_out(examples: list[Example], folder: Path) -> tuple[list[Example], Dev]:
    """Splits into training and scored examples. The split is always the same."""
    num_held_out = round(HELD_OUT_SHARE * len(examples))
    if not num_held_out:
        raise UserError(f"{folder} has no dev.tsv, and {len(examples)} pairs in train.tsv have no tenth; add some")
    print(f"espalier: {folder} has no dev.tsv: scoring a tenth of train.tsv, {num_held_out} pairs", file=sys.stderr)
    held_out = set(np.random.default_rng(0).permutation(len(examples))[:num_held_out].tolist())
    return (
        [example for row, example in enumerate(examples) if row not in held_out],
        {"dev": [example for row, example in enumerate(examples) if row in held_out]},
    )


def _examples(task: GlueTask, path: Path) -> list[Example]:
    """Tab-separated without quoting. Skips lines that lack a column, as GLUE's readers do (QQP has some)."""
    lines = [line.rstrip("\r").split("\t") for line in read_text(path).rstrip("\r\n").split("\n")]
    has_header = not task.label.isdecimal()
    header = lines.pop(0) if has_header else [str(index) for index in range(4)]
    missing = [column for column in (*task.columns, task.label) if column not in header]
    if missing:
        first = " ".join(header)[:80]
        raise UserError(f"{path} has no column {missing[0]!r}, its first line is {first!r}; give GLUE's own file")
    places = [header.index(column) for column in task.columns]
    label = header.index(task.label)
    examples = [
        Example(tuple(cells[place] for place in places), _label(task, cells[label], f"{path}, line {number}"))
        for number, cells in enumerate(lines, start=1 + has_header)
        if len(cells) > max(*places, label)
    ]
    if not examples:
        raise UserError(f"{path} holds no examples ({len(lines)} lines lack a column); give GLUE's own file")
    return examples


def _label(task: GlueTask, text: str, where: str) -> int | float:
    with contextlib.suppress(ValueError):
        if task.labels:
            return task.labels.index(text)
        if 0 <= float(text) <= HIGHEST_SIMILARITY:  # nan is not
            return float(text)
    allowed = " or ".join(task.labels) or f"a number from 0 to {HIGHEST_SIMILARITY:g}"
    raise UserError(f"{where}: label {text!r} is not {allowed}; correct the line or remove it")


def _read_hub(task: GlueTask) -> tuple[list[Example], Dev, str]:
    from pretrain.finetune.hub import load

    dataset = load("nyu-mll/glue", task.hub_name, task.folder)

    def examples(split: str) -> list[Example]:
        return [Example(tuple(row[name] for name in task.hub_columns), row["label"]) for row in dataset[split]]

    return examples("train"), {name: examples(name.replace("dev", "validation")) for name in task.dev}, "the dev set"
