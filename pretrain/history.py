"""What a run has done so far, read from its metrics.jsonl: one object a step or event."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import UserError
from pretrain.run_folder import RunFolder

Line = dict[str, Any]


@dataclass(frozen=True)
class History:
    lines: Sequence[Line]

    @classmethod
    def read(cls, folder: Path, last_step: int | float = math.inf) -> "History":
        """The history of the run in `folder`, up to a step. Raises UserError when there is none."""
        metrics = RunFolder(folder).metrics
        if not metrics.is_file():
            raise UserError(f"{folder} has no metrics.jsonl; name the folder of a run, such as runs/demo")
        lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines() if line.endswith("}")]
        return cls([line for line in lines if line["step"] <= last_step])

    @property
    def steps(self) -> list[Line]:
        return [line for line in self.lines if "event" not in line]

    def events(self, kind: str) -> list[Line]:
        return [line for line in self.lines if line.get("event") == kind]

    @property
    def stages(self) -> list[Line]:
        """Each stage once, as it began: a resumed run announces its stage again."""
        return list({line["stage"]: line for line in reversed(self.events("stage"))}.values())[::-1]
