"""What happens in a run, the hooks that hear of it, and what they see of the trainer.

The trainer calls each of its hooks at the places that `Hook` defines. A hook overrides those it needs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pretrain.checkpoint.progress import Decision, Progress
from pretrain.data import Corpus
from pretrain.data.objective import Objective
from pretrain.recipe import ResolvedStage, Run

if TYPE_CHECKING:
    from pathlib import Path

    from deepspeed.runtime.engine import DeepSpeedEngine

    from model.batch import Batch


@dataclass(frozen=True)
class StepResult:
    """One optimizer step over the whole global batch. Field names are the keys in metrics.jsonl."""

    step: int
    stage: str
    loss: float
    """mlm_loss, plus the sentence loss where there is one."""
    mlm_loss: float
    """NaN, like `loss` and `mlm_accuracy`, where no token was masked."""
    mlm_accuracy: float
    sentence_accuracy: float | None
    lr: float
    grad_norm: float
    """Before clipping."""
    tokens: int
    """Tokens read since the start of the run, padding excluded."""
    flops: float
    """Since the start of the run."""
    seconds: float
    """Time in training steps since the start of the run."""
    tokens_per_second: float
    """Of this step alone."""
    alignment: float | None = None
    """Mean cosine of a token's states in the aligned layer and in the teacher; None: there is no teacher."""

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


class Evaluation(NamedTuple):
    """Loss and accuracy on the validation rows."""

    loss: float
    """Mean negative log-likelihood of a masked token, or of a next one in a stage of `clm`, in nats."""
    accuracy: float
    sentence_loss: float = math.nan
    """The same of a sentence pair; NaN where there are none."""


@dataclass(frozen=True)
class GrowthEvent:
    """One change of shape. Both losses are measured on the same probe rows, just before and just after."""

    operator: str
    step: int
    stage: str
    loss_before: float
    loss_after: float
    seconds: float
    moments: str
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of each part of the move."""

    def to_json(self) -> dict[str, Any]:
        return {"event": "growth", **asdict(self)}


class Activity(NamedTuple):
    """What a rank is doing, for the watchdog."""

    number: int
    """Activities before this one."""
    name: str
    since: float
    """time.monotonic() at its start."""


class TrainerView(Protocol):
    """What hooks see of the trainer."""

    run: Run
    stage: ResolvedStage
    corpus: Corpus
    engine: "DeepSpeedEngine"
    progress: Progress
    activity: Activity
    checkpoints: "Path | None"
    """The folder where the run saves states by name."""

    @property
    def hooks(self) -> "Sequence[Hook]": ...

    @property
    def now(self) -> float:
        """The run's clock, in the unit of `run.unit`."""

    def start_activity(self, name: str) -> None:
        """Tells the watchdog what this rank does from now on."""

    def probe(
        self, stage: ResolvedStage, sequence: int | None = None, objective: Objective | None = None
    ) -> "list[Batch]":
        """This rank's part of a few validation rows; of the stage's length and objective by default."""

    def flops_per_token(self, stage: ResolvedStage) -> float:
        """Training FLOPs of a stage per token of its rows."""

    def decide(self, decision: Decision) -> None:
        """Changes the stages of the run from here on. Every rank has to make the same decision."""

    def call(self, place: str, *arguments: Any) -> None:
        """Calls a method of `Hook` on every hook, in their order."""


class Hook:
    """A feature of training. By default every place does nothing.

    Ranks call their hooks at the same places, so a hook that runs on all ranks may use collectives. hooks/__init__.py
    lists the hooks and says which run on rank 0 alone.
    """

    name = ""
    """The key of its state in a checkpoint; empty for a hook without state."""

    def on_start(self, trainer: TrainerView) -> None:
        """A trainer starts and its engine is ready: once per process, and again after each rollback."""

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        """A stage begins, or resumes. Its engine is ready."""

    def on_growth(self, trainer: TrainerView, event: GrowthEvent) -> None:
        """The shape has changed."""

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        """An optimizer step was taken."""

    def on_skip(self, trainer: TrainerView, loss: float, repeat: Callable[[], Any]) -> None:
        """A step was skipped because its gradient is not finite.

        `repeat` computes it again. All ranks have to call it together.
        """

    def on_boundary(self, trainer: TrainerView) -> None:
        """A step and its validation are complete. The run may be saved here."""

    def on_save(self, trainer: TrainerView) -> None:
        """The state is about to be saved."""

    def on_event(self, trainer: TrainerView, event: dict[str, Any]) -> None:
        """A hook reports a line for metrics.jsonl: `event`, `step`, and for people a `message`."""

    def on_validation(self, trainer: TrainerView, evaluation: Evaluation) -> None:
        """The model was evaluated on the validation rows."""

    def on_end(self, trainer: TrainerView) -> None:
        """After the last step and the last validation."""

    def on_leave(self, trainer: TrainerView) -> None:
        """All ranks stop before the end of the run, or return to a checkpoint."""

    def state(self) -> dict[str, Any]:
        """JSON, saved with every checkpoint. Rank 0's is saved, so it must be the same on all ranks that need it."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned."""
