"""`until: {hours: N}`: the stage has trained long enough, in a run that is measured in steps."""

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, RootModel

from pretrain.settings.values import SECONDS_PER_HOUR, Number
from pretrain.stage_rules.base import StageRule, Watch
from pretrain.stage_rules.reached import Reached
from pretrain.stage_rules.view import RunView, StageView, TrainingView


class Hours(StageRule, RootModel[Annotated[Number, Field(gt=0)]]):
    """End the stage after this many hours of training. For runs measured in steps."""

    model_config = ConfigDict(frozen=True)
    key: ClassVar[str] = "hours"

    def words(self) -> str:
        return f"{self.root:g} hours of training"

    def fault(self, stage: StageView, run: RunView) -> str | None:
        return None if run.unit == "steps" else "until.hours is for runs measured in steps; give the stage hours"

    def watch(self, training: TrainingView) -> Watch:
        return Reached(self.key, self.root * SECONDS_PER_HOUR, lambda progress: progress.train_seconds, training)
