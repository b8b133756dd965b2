"""The history of a run: its metrics.jsonl, one object for each step or event. The only reader of that file."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from model.errors import UserError
from pretrain.checkpoint.tensors import NOBODYS, replace_text
from pretrain.lease import Start
from pretrain.runs.folder import RunFolder

Line = dict[str, Any]

STEP, EXPECTED_STEP = "step", "expected_step"
TEXTS = {STEP: ("stage",), "stage": ("stage", "shape"), "growth": ("operator",), EXPECTED_STEP: ("stage",)}
NUMBERS = {
    STEP: ("loss", "mlm_loss", "mlm_accuracy", "lr", "grad_norm"),
    "validation": ("valid_loss", "valid_accuracy"),
    "growth": ("loss_before", "loss_after"),
}
FINITE_NUMBERS = {
    STEP: ("tokens", "flops", "seconds", "tokens_per_second"),
    "validation": ("tokens",),
    EXPECTED_STEP: ("seconds",),
}
"""What the lines of steps and of some events have at least."""

LASTING_EVENTS = ("rollback",)
"""Events that stay when a resumed run drops what was written after its checkpoint."""

NUM_LAST_STEPS = 20
"""Steps at the end of a stage that its loss is averaged over."""


@dataclass(frozen=True)
class History:
    lines: Sequence[Line]

    @classmethod
    def read(cls, folder: Path, last_step: int | float = math.inf) -> "History":
        """The history of the run in `folder`, up to a step. Raises UserError when there is none, or it is damaged."""
        metrics = RunFolder(folder).metrics
        if not metrics.is_file():
            raise UserError(f"{folder} has no metrics.jsonl; name the folder of a run, such as runs/demo")
        try:
            lines = read_lines(metrics)
        except ValueError as fault:
            raise UserError(f"{metrics} is damaged: {fault}; remove it, or copy the file again") from None
        return cls([line for line in lines if line["step"] <= last_step])

    @property
    def steps(self) -> list[Line]:
        return [line for line in self.lines if "event" not in line]

    def events(self, kind: str) -> list[Line]:
        return [line for line in self.lines if line.get("event") == kind]

    @property
    def stages(self) -> list[Line]:
        """The event that began each stage. A resumed run may repeat it; the first one counts."""
        return list({line["stage"]: line for line in reversed(self.events("stage"))}.values())[::-1]

    def steps_of(self, stage: str) -> list[Line]:
        return [line for line in self.steps if line["stage"] == stage]

    @property
    def expected_step_seconds(self) -> dict[str, float]:
        """By stage, as the last start expected it; of the stages that ran on a machine that was calibrated."""
        return {line["stage"]: line["seconds"] for line in self.events(EXPECTED_STEP)}


def final_loss(steps: Sequence[Line]) -> float:
    """Mean loss of the last steps, in nats, without those that diverged. NaN if there are no others."""
    losses = [line["loss"] for line in steps if math.isfinite(line["loss"])]
    return fmean(losses[-NUM_LAST_STEPS:]) if losses else math.nan


def usual_speed(steps: Sequence[Line]) -> float:
    """Median tokens per second; NaN without steps."""
    return median(line["tokens_per_second"] for line in steps) if steps else math.nan


def usual_step_seconds(steps: Sequence[Line]) -> float | None:
    """Median seconds of a step of a stage, without its first one, which may compile. None if there are no others."""
    ends = [line["seconds"] for line in steps]
    return median(after - before for before, after in pairwise(ends)) if len(ends) > 1 else None


def read_lines(metrics: Path, *, is_finished: bool = False) -> list[Line]:
    """Every step and event. Raises ValueError that names the first line that is neither.

    A torn last line is ignored unless the run is finished: the run is writing it, or was killed while it did.
    """
    texts = metrics.read_bytes().splitlines()
    lines = []
    for number, text in enumerate(texts, 1):
        line = _parsed(text)
        if line is not None:
            lines.append(line)
        elif is_finished or number < len(texts):
            raise ValueError(f"line {number} is not a step or an event")
    return lines


def truncate(metrics: Path, num_lines: int, start: Start = NOBODYS) -> int:
    """Keeps the first `num_lines` lines, without a torn last one, and the lasting events after them. Returns how many
    lines are left. The file is a new one, so that an older start that still has it open writes nowhere."""
    texts = metrics.read_bytes().splitlines() if metrics.is_file() else []
    dropped = [(text, _parsed(text)) for text in texts[num_lines:]]
    lasting = [text for text, line in dropped if line and line.get("event") in LASTING_EVENTS]
    kept = [text for text in texts[:num_lines] if _parsed(text)] + lasting
    replace_text(metrics, b"".join(text + b"\n" for text in kept).decode(), start)
    return len(kept)


def _parsed(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and _is_whole(line) else None


def _is_whole(line: Line) -> bool:
    """Whether a line has what readers rely on. What else it has may be anything, as from a hook of the user's."""
    event, step = line.get("event", STEP), line.get("step")
    if not isinstance(event, str) or not _is_number(step) or not isinstance(step, int) or step < 0:
        return False
    texts = (*TEXTS.get(event, ()), *(("rule",) if "in_a_row" in line else ()))
    return (
        all(isinstance(line.get(key), str) for key in texts)
        and all(_is_number(line.get(key)) for key in NUMBERS.get(event, ()))
        and all(is_finite_number(line.get(key)) for key in FINITE_NUMBERS.get(event, ()))
        and isinstance(line.get("message", ""), str)
        and (event != "update_size" or _are_numbers(line.get("rms")))
    )


def _are_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(map(_is_number, values.values()))


def is_finite_number(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_number(value: Any) -> bool:
    """NaN and infinity are numbers; an integer beyond 64 bits is none."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)
