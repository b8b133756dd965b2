"""What a run has done so far, read from its metrics.jsonl: one object a step or event."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import UserError
from pretrain.runs.folder import RunFolder

Line = dict[str, Any]


@dataclass(frozen=True)
class History:
    lines: Sequence[Line]

    @classmethod
    def read(cls, folder: Path, last_step: int | float = math.inf) -> "History":
        """The history of the run in `folder`, up to a step. Raises UserError when there is none, or it is damaged."""
        metrics = RunFolder(folder).metrics
        if not metrics.is_file():
            raise UserError(f"{folder} has no metrics.jsonl; name the folder of a run, such as runs/demo")
        return cls([line for line in _read_lines(metrics) if line["step"] <= last_step])

    @property
    def steps(self) -> list[Line]:
        return [line for line in self.lines if "event" not in line]

    def events(self, kind: str) -> list[Line]:
        return [line for line in self.lines if line.get("event") == kind]

    @property
    def stages(self) -> list[Line]:
        """Each stage once, as it began: a resumed run announces its stage again."""
        return list({line["stage"]: line for line in reversed(self.events("stage"))}.values())[::-1]


def _read_lines(metrics: Path) -> Iterator[Line]:
    """Without the last one if it is torn: the run writes it just now, or was killed while it did."""
    texts = metrics.read_bytes().splitlines()
    for number, text in enumerate(texts, 1):
        line = _parsed(text)
        if line is not None:
            yield line
        elif number < len(texts):
            raise UserError(
                f"{metrics} is damaged: line {number} is no step and no event; take it out, or copy the file again"
            )


def _parsed(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None
