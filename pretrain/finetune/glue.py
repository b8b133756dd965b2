"""GLUE's tasks of one or two sentences: files to features, logits to scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import UserError
from pretrain.finetune.fit import Features, Predict
from pretrain.finetune.tasks import GlueTask

HELD_OUT_SHARE = 0.1
"""Of train.tsv, scored where a folder has no labelled dev.tsv (MRPC's cannot be shared)."""


@dataclass(frozen=True)
class Example:
    sentences: tuple[str, ...]
    label: int | float


class Glue:
    """One task with its data. Made by `Glue.open`."""

    architecture = "AutoModelForSequenceClassification"

    def __init__(self, task: GlueTask, train: list[Example], dev: dict[str, list[Example]], max_length: int):
        self.task, self.train, self.dev, self.max_length = task, train, dev, max_length
        self.num_outputs = len(task.labels) or 1

    @classmethod
    def open(cls, task: GlueTask, data: Path | None, max_length: int) -> "Glue":
        """From GLUE's files in `data` (the task's folder, or the one that holds it), else from the Hub.

        Raises UserError when there is neither.
        """
        read = _read_hub if data is None else _read_files
        return cls(task, *read(task, data), max_length)

    def training_features(self, tokenizer: Any) -> list[Features]:
        return self._features(tokenizer, self.train)

    def score(self, tokenizer: Any, predict: Predict) -> dict[str, float]:
        """Every metric on every dev file, logits [N, outputs] by `predict`."""
        scores = {}
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


def _read_files(task: GlueTask, data: Path) -> tuple[list[Example], dict[str, list[Example]]]:
    folder = data / task.folder if (data / task.folder).is_dir() else data
    if not (folder / "train.tsv").is_file():
        raise UserError(f"{data} holds no {task.folder}/train.tsv; name a folder with GLUE's files by --data")
    train = list(_rows(task, folder / "train.tsv"))
    missing = [name for name in task.dev if not (folder / f"{name}.tsv").is_file()]
    if not missing:
        return train, {name: list(_rows(task, folder / f"{name}.tsv")) for name in task.dev}
    if len(task.dev) > 1:
        raise UserError(f"{folder} has no {missing[0]}.tsv; it is one of GLUE's files for {task.folder}")
    order = np.random.default_rng(0).permutation(len(train))
    held_out = set(order[: round(HELD_OUT_SHARE * len(train))].tolist())
    return (
        [example for row, example in enumerate(train) if row not in held_out],
        {"dev": [example for row, example in enumerate(train) if row in held_out]},
    )


def _rows(task: GlueTask, path: Path) -> Iterator[Example]:
    """Tab-separated without quoting. A line that lacks a column is left out, as by GLUE's readers (QQP has some)."""
    lines = [line.rstrip("\r").split("\t") for line in path.read_text("utf-8-sig").split("\n") if line.strip()]
    has_header = not task.label.isdecimal()
    header = lines.pop(0) if has_header else [str(index) for index in range(4)]
    missing = [column for column in (*task.columns, task.label) if column not in header]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; its first line is {' '.join(header)[:80]!r}")
    places = [header.index(column) for column in task.columns]
    label = header.index(task.label)
    for number, cells in enumerate(lines, start=1 + has_header):
        if len(cells) <= max(*places, label):
            continue
        yield Example(tuple(cells[place] for place in places), _label(task, cells[label], f"{path}, line {number}"))


def _label(task: GlueTask, text: str, where: str) -> int | float:
    try:
        return task.labels.index(text) if task.labels else float(text)
    except ValueError:
        allowed = ", ".join(task.labels) or "a number"
        raise UserError(f"{where}: label {text!r} is not {allowed}") from None


def _read_hub(task: GlueTask, data: None) -> tuple[list[Example], dict[str, list[Example]]]:
    from pretrain.finetune.hub import load

    dataset = load("nyu-mll/glue", task.hub_name, task.folder)

    def examples(split: str) -> list[Example]:
        return [Example(tuple(row[name] for name in task.hub_columns), row["label"]) for row in dataset[split]]

    return examples("train"), {name: examples(name.replace("dev", "validation")) for name in task.dev}
