"""GLUE's tasks of one or two sentences: files to features, logits to scores."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import UserError
from pretrain.finetune.fit import Features, Predict
from pretrain.finetune.tasks import GlueTask
from pretrain.finetune.text import check_length, read_text

HELD_OUT_SHARE = 0.1
"""Share of train.tsv that is held out and scored if dev.tsv is missing and the task allows that."""
HIGHEST_SIMILARITY = 5.0
"""STS-B, the only regression task, scores similarity from 0 to this."""


@dataclass(frozen=True)
class Example:
    sentences: tuple[str, ...]
    label: int | float


Dev = dict[str, list[Example]]
"""The examples of each dev file, by its name."""


class Glue:
    """One task with its data. Made by `Glue.open`."""

    architecture = "AutoModelForSequenceClassification"

    def __init__(self, task: GlueTask, train: list[Example], dev: Dev, scored_on: str, max_length: int):
        """`scored_on`: what `dev` contains, in words."""
        self.task, self.train, self.dev, self.scored_on, self.max_length = task, train, dev, scored_on, max_length
        self.num_outputs = len(task.labels) or 1

    @classmethod
    def open(cls, task: GlueTask, data: Path | None, max_length: int) -> "Glue":
        """From GLUE's files in `data` (the task's folder, or the one that holds it), else from the Hub.

        Raises UserError when there is neither, and for files that are not as GLUE writes them.
        """
        read = _read_hub(task) if data is None else _read_files(task, data)
        return cls(task, *read, max_length)

    def training_features(self, tokenizer: Any) -> list[Features]:
        """Features of every training example. Raises UserError if a sentence would have to lose all its tokens."""
        num_sentences = len(self.task.columns)
        num_special = tokenizer.num_special_tokens_to_add(pair=num_sentences == 2)
        check_length(self.max_length, num_special + num_sentences, f"{num_special} special tokens")
        return self._features(tokenizer, self.train)

    def score(self, tokenizer: Any, predict: Predict) -> dict[str, float]:
        """Every metric on every dev file, logits [N, outputs] by `predict`."""
        scores: dict[str, float] = {}
        for name, examples in self.dev.items():
            (logits,) = predict(self._features(tokenizer, examples))
            true = np.array([example.label for example in examples])
            predicted = logits.argmax(-1) if self.task.labels else logits[:, 0]
            suffix = name.removeprefix("dev")
            scores |= {f"{metric}{suffix}": score(predicted, true) for metric, score in self.task.metrics.items()}
        return scores

    def _features(self, tokenizer: Any, examples: Sequence[Example]) -> list[Features]:
        columns = zip(*(example.sentences for example in examples), strict=True)
        encoded = tokenizer(*map(list, columns), truncation=True, max_length=self.max_length)
        return [
            {**{key: values[row] for key, values in encoded.items()}, "labels": example.label}
            for row, example in enumerate(examples)
        ]


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
