"""The settings that a stage takes from the stage before unless it gives its own."""

from dataclasses import dataclass, replace

from pretrain.data.objective import MaskRate, Objective
from pretrain.optim.section import Optimizer
from pretrain.recipe.schema import Batch, Layout, Recipe, Stage
from pretrain.recipe.shares import row_length


@dataclass(frozen=True)
class Inherited:
    objective: Objective
    mask_rate: MaskRate
    sentence_objective: bool
    sequence: int
    """Tokens per row."""
    batch: Batch
    layout: Layout
    engine_file: str
    """Path of the DeepSpeed JSON file."""
    optimizer: Optimizer

    @classmethod
    def of_run(cls, recipe: Recipe) -> "Inherited":
        rate, whole = recipe.data.mask_rate, (recipe.sequence, recipe.batch, recipe.layout, recipe.deepspeed)
        return cls("mlm", MaskRate(rate, rate), True, *whole, recipe.optimizer)

    def for_stage(self, stage: Stage, recipe: Recipe) -> "Inherited":
        rate, pairs = stage.masking.rate or self.mask_rate.last, stage.sentence_objective
        return replace(
            self,
            objective=stage.objective or self.objective,
            mask_rate=MaskRate(rate, stage.masking.end or rate),
            sentence_objective=self.sentence_objective if pairs is None else pairs,
            sequence=row_length(stage.sequence, recipe.sequence) or self.sequence,
            batch=self.batch.model_copy(update=stage.batch.model_dump(exclude_none=True)),
            layout=self.layout.model_copy(update=stage.layout.model_dump(exclude_none=True)),
            engine_file=stage.deepspeed or self.engine_file,
            optimizer=stage.optimizer or self.optimizer,
        )
