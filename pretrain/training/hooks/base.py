"""The places between steps where features hang. A hook overrides what it needs; the trainer calls them in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretrain.recipe import ResolvedStage
    from pretrain.training.evaluation import Evaluation
    from pretrain.training.trainer import Trainer


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, summed or averaged over the whole global batch. Field names are those of metrics.jsonl."""

    step: int
    stage: str
    loss: float
    """mlm_loss plus the sentence loss, where there is one."""
    mlm_loss: float
    mlm_accuracy: float
    sentence_accuracy: float | None
    lr: float
    grad_norm: float
    tokens: int
    """So far, as are flops and seconds."""
    flops: float
    seconds: float
    tokens_per_second: float
    """Of this step."""

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class GrowthEvent:
    """One change of shape. Losses on the same probe rows just before and just after."""

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


class Hook:
    name = ""
    """Under which its state is saved; empty for hooks without state."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of this process, the engine ready."""

    def on_stage(self, trainer: Trainer, stage: ResolvedStage) -> None:
        """A stage begins, its engine ready."""

    def on_growth(self, trainer: Trainer, event: GrowthEvent) -> None: ...

    def on_step(self, trainer: Trainer, result: StepResult) -> None: ...

    def on_skip(self, trainer: Trainer, loss: float, repeat: Callable[[], Any]) -> None:
        """A step whose gradient was not finite was not taken; `repeat` computes it again, on all ranks together."""

    def on_boundary(self, trainer: Trainer) -> None:
        """A step is over with all that belongs to it, its validation included: the run could be saved here."""

    def on_event(self, trainer: Trainer, event: dict[str, Any]) -> None:
        """Another hook has something for the metrics: `event` and `step`; a `message` is for people, too."""

    def on_validation(self, trainer: Trainer, evaluation: Evaluation) -> None: ...

    def on_end(self, trainer: Trainer) -> None:
        """After the last step and the last validation."""

    def on_leave(self, trainer: Trainer) -> None:
        """All ranks leave before the run's end, or go back to a checkpoint."""

    def state(self) -> dict[str, Any]:
        """JSON, saved with every checkpoint. The same on all ranks, or rank 0's counts."""
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...
