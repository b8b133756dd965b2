"""The settings that a stage takes from the stage before unless it gives its own."""

from dataclasses import dataclass, replace

from pretrain.optim.section import Optimizer
from pretrain.recipe.schema import Batch, Layout, Recipe, Stage
from pretrain.recipe.shares import row_length


@dataclass(frozen=True)
class Inherited:
    sequence: int
    """Tokens per row."""
    batch: Batch
    layout: Layout
    engine_file: str
    """Path of the DeepSpeed JSON file."""
    optimizer: Optimizer

    @classmethod
    def of_run(cls, recipe: Recipe) -> "Inherited":
        return cls(recipe.sequence, recipe.batch, recipe.layout, recipe.deepspeed, recipe.optimizer)

    def for_stage(self, stage: Stage, recipe: Recipe) -> "Inherited":
        return replace(
            self,
            sequence=row_length(stage.sequence, recipe.sequence) or self.sequence,
            batch=self.batch.model_copy(update=stage.batch.model_dump(exclude_none=True)),
            layout=self.layout.model_copy(update=stage.layout.model_dump(exclude_none=True)),
            engine_file=stage.deepspeed or self.engine_file,
            optimizer=stage.optimizer or self.optimizer,
        )
