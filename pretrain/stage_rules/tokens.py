"""`until: {tokens: N}`: the stage has read enough tokens."""

from typing import ClassVar

from pydantic import ConfigDict, RootModel

from pretrain.settings.values import Positive
from pretrain.stage_rules.base import StageRule, Watch
from pretrain.stage_rules.reached import Reached
from pretrain.stage_rules.view import TrainingView


class Tokens(StageRule, RootModel[Positive]):
    """End the stage after this many tokens, padding excluded."""

    model_config = ConfigDict(frozen=True)
    key: ClassVar[str] = "tokens"

    def words(self) -> str:
        return f"{self.root:,} tokens"

    def watch(self, training: TrainingView) -> Watch:
        return Reached(self.key, self.root, lambda progress: progress.num_tokens, training)
