"""What a stage rule may see: the plan, when a recipe is checked, and the run, while it trains.

Rules know no more of the recipe and the trainer than this, so both can build on the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

    from growth.operators.base import Operator
    from growth.partial_shape import PartialShape
    from model.batch import Batch
    from model.config import BertConfig
    from pretrain.checkpoint.progress import Progress


class StageView(Protocol):
    """One stage of the plan. Times are ticks of the run's clock."""

    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def config(self) -> BertConfig: ...
    @property
    def precision(self) -> str: ...
    @property
    def grow(self) -> Sequence[Operator]:
        """The operators that lead to this stage from the stage before it."""

    @property
    def shape(self) -> PartialShape:
        """The fields of the model that this stage asks for."""

    @property
    def until(self) -> Any:
        """Its rules by their keys (`until.py`), or None."""

    @property
    def split(self) -> Any:
        """Its rule `split`, or None."""


class LearningRateView(Protocol):
    def warm_at(self, now: float) -> float:
        """The tick at which the warmup in progress at `now` ends."""


class RunView(Protocol):
    @property
    def unit(self) -> str:
        """What the clock counts: `steps` or `seconds`."""

    @property
    def stages(self) -> Sequence[StageView]: ...
    @property
    def learning_rate(self) -> LearningRateView: ...


class StepView(Protocol):
    """One optimizer step, the same on all ranks."""

    @property
    def step(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def mlm_accuracy(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def grad_norm(self) -> float:
        """Before clipping."""

    @property
    def tokens(self) -> int:
        """Read since the start of the run, padding excluded."""

    @property
    def flops(self) -> float:
        """Since the start of the run."""


class TrainingView(Protocol):
    """The run while it trains."""

    @property
    def run(self) -> RunView: ...
    @property
    def stage(self) -> StageView:
        """The current one."""

    @property
    def now(self) -> float:
        """The run's clock, in ticks."""

    @property
    def progress(self) -> Progress: ...
    @property
    def engine(self) -> DeepSpeedEngine: ...

    def probe(self, stage: Any) -> list[Batch]:
        """This rank's part of a few validation rows."""

    def flops_per_token(self, stage: Any) -> float:
        """Training FLOPs of a stage per token of its rows."""
