"""The parts of a run's files that `compare` reads. A damaged or incomplete file is named in one line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, FiniteFloat

from model.errors import UserError
from pretrain.recipe import Recipe
from pretrain.recipe.load import explained
from pretrain.recipe.noise import as_recorded
from pretrain.runs.history import read_lines

Positive = Annotated[FiniteFloat, Field(gt=0)]


class Growth(BaseModel):
    """One change of shape."""

    operator: str
    step: int
    loss_before: float
    loss_after: float
    seconds: float


class Stage(BaseModel):
    shape: str


class ValidationRows(BaseModel):
    """The rows on which a run's last loss was measured."""

    rows: Annotated[int, Field(gt=0, strict=True)]
    tokens: Annotated[int, Field(gt=0, strict=True)]
    """Per row."""
    split_hash: str
    """Hash of the vocabulary and the tokens."""


class Before(BaseModel):
    """What led to the state that a run continues (`start_with: state`; pretrain/checkpoint/progress.py)."""

    recipes: Annotated[list[Recipe], Field(min_length=1)]
    steps: int
    num_tokens: int
    flops: float
    train_seconds: float
    """By which a budget in hours goes."""
    seconds: float
    """With shape changes, as `device_seconds`."""
    device_seconds: float
    was_grown: bool


class Summary(BaseModel):
    """summary.json."""

    flops: Positive
    tokens: Positive
    seconds: Positive
    device_seconds: Positive
    ranks: Positive
    validated_on: ValidationRows
    valid_loss: FiniteFloat
    valid_accuracy: FiniteFloat
    stages: Annotated[list[Stage], Field(min_length=1)]
    growth: list[Growth]
    before: Before | None = None


class Step(BaseModel):
    """One step's line of metrics.jsonl."""

    step: int
    mlm_loss: float
    flops: float
    seconds: float


def read_recipe(file: Path) -> Recipe:
    with _named(file):
        values = yaml.safe_load(file.read_text("utf-8"))
        if isinstance(values, dict) and isinstance(values.get("stages"), list):
            values["stages"] = [_without_nulls(stage) for stage in values["stages"]]
        with explained(Recipe):
            return as_recorded(Recipe.model_validate(values))


def read_summary(file: Path) -> Summary:
    with _named(file), explained(Summary):
        return Summary.model_validate(json.loads(file.read_text("utf-8")))


def read_steps(file: Path) -> tuple[Step, ...]:
    with _named(file), explained(Step):
        steps = tuple(Step.model_validate(line) for line in read_lines(file, is_finished=True) if "event" not in line)
        if not steps:
            raise ValueError("it holds no step")
        return steps


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Turns any error in reading `file` into a UserError."""
    try:
        yield
    except (OSError, ValueError, yaml.YAMLError) as fault:
        problem = fault.strerror if isinstance(fault, OSError) else " ".join(str(fault).split())
        raise UserError(
            f"{file} is damaged or incomplete ({problem}); copy the run's folder again, or omit it"
        ) from None


def _without_nulls(stage: Any) -> Any:
    """A stage without its null entries: older versions wrote null for what a stage leaves out."""
    return {key: value for key, value in stage.items() if value is not None} if isinstance(stage, dict) else stage
