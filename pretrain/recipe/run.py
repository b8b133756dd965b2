"""A run: a recipe worked out for one vocabulary and one number of ranks, stage by stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from growth.operators.base import Operator
from growth.operators.saved_state import INITIAL
from growth.partial_shape import PartialShape
from model.config import BertConfig
from pretrain.data.objective import MaskRate, Objective
from pretrain.optim.options import StepWork
from pretrain.optim.section import Optimizer
from pretrain.recipe.align import StageAlignment
from pretrain.recipe.schedule import LearningRate
from pretrain.recipe.schema import NewUnitRate, Precision, Recipe, Restart
from pretrain.stage_rules.split import Split
from pretrain.stage_rules.until import Until

Unit = Literal["steps", "seconds"]
"""What the clock of a run counts. One of either is a *tick*."""


@dataclass(frozen=True)
class ResolvedStage:
    index: int
    name_in_recipe: str
    start: float
    """First tick of the stage: it lasts while start <= now < end."""
    end: float
    config: BertConfig
    objective: Objective
    mask_rate: MaskRate
    sentence_objective: bool
    """Whether sentence pairs, where there are any, are trained."""
    sequence: int
    """Tokens per row."""
    global_batch: int
    """Rows per step, over all ranks and accumulation steps."""
    micro_batch: int
    """Rows that one rank computes at a time."""
    accumulation: int
    """Micro-batches per step on each rank."""
    tensor_parallel: int
    sequence_parallel: bool
    data_parallel: int
    grow: tuple[Operator, ...]
    """The operators that lead here from the stage before, with their options."""
    shape: PartialShape
    """The fields of the model that this stage asks for."""
    deepspeed: dict[str, Any]
    """The contents of the DeepSpeed JSON file, with defaults for what it leaves out."""
    zero_stage: int
    precision: Precision
    optimizer: Optimizer
    recompute: bool
    rewarm: float
    """Ticks."""
    lr_scale: float
    new_unit_rate: NewUnitRate
    """Its steps are a count."""
    restart: Restart | None
    """The schedule that begins with this stage."""
    until: Until | None
    """The rules that may end the stage before `end`, with their intervals in steps."""
    split: Split | None
    keep: str | None
    align: StageAlignment | None = None
    """With a teacher, at least in its first steps."""
    part: int = 1
    """A stage whose blocks are split while it runs is divided: its parts are numbered from 1."""

    @property
    def name(self) -> str:
        """`tied`, and `tied/2` for the second part of a divided stage."""
        return self.name_in_recipe if self.part == 1 else f"{self.name_in_recipe}/{self.part}"

    @property
    def starts_new_units(self) -> bool:
        """Whether units that its operators add begin without state."""
        return any(operator.moments == "new_units" for operator in self.grow)

    def needs_move(self, previous: "ResolvedStage") -> bool:
        """Whether it differs in something that its engine is built for, unlike row length and learning rate."""
        fields = ("config", "tensor_parallel", "sequence_parallel", "micro_batch", "accumulation", "deepspeed")
        differs = any(getattr(previous, field) != getattr(self, field) for field in fields)
        return bool(self.grow) or differs or self.has_other_optimizer(previous)

    def has_other_optimizer(self, previous: "ResolvedStage") -> bool:
        """Apart from the learning rate."""
        return self.optimizer.at_rate_of(previous.optimizer) != previous.optimizer

    @property
    def clips_on_ranks(self) -> bool:
        """Whether each data-parallel rank clips its own gradient before they are summed, once in a step."""
        return self.optimizer.clip_bucket_mb is not None

    @property
    def learning_steps(self) -> int:
        """Steps over its rows in which its operators learn their change of shape, before its own begin."""
        return sum(operator.learning_steps for operator in self.grow)

    @property
    def length(self) -> float:
        """Ticks."""
        return self.end - self.start

    @property
    def causal(self) -> bool:
        return self.objective == "clm"

    @property
    def predicted_share(self) -> float:
        """Of the tokens of its rows, those that are predicted, in the mean of its steps."""
        return 1.0 if self.causal else self.mask_rate.mean

    @property
    def most_predicted(self) -> float:
        """The same in the step that predicts most."""
        return 1.0 if self.causal else max(self.mask_rate.first, self.mask_rate.last)

    def mask_rate_at(self, now: float) -> float:
        """Of the step that is taken at tick `now`."""
        return self.mask_rate.at(now, self.start, self.end)

    def align_weight_at(self, now: float) -> float:
        """Of the cosines to a teacher, in the step that is taken at tick `now`; 0: there is none."""
        return self.align.weight_at(now) if self.align else 0.0

    @property
    def aligned_share(self) -> float:
        """Of its steps, those that compute a teacher."""
        return max(0.0, min(self.align.end, self.end) - self.start) / self.length if self.align else 0.0

    @property
    def saved_states_read(self) -> list[str]:
        """Names or paths: by operators on the way to it, and for a teacher."""
        names = [name for operator in self.grow for name in operator.saved_states_read]
        return [*names, self.align.teacher] if self.align else names

    @property
    def optimizer_work(self) -> StepWork:
        """Of a step, on one rank."""
        return self.optimizer.chosen.step_work(self.config, self.tensor_parallel, self.data_parallel, self.zero_stage)


@dataclass(frozen=True)
class Run:
    recipe: Recipe
    num_ranks: int
    unit: Unit
    """Optimizer steps, or seconds of training if the recipe gives a budget in hours."""
    stages: tuple[ResolvedStage, ...]
    learning_rate: LearningRate

    @property
    def end(self) -> float:
        return self.stages[-1].end

    @property
    def has_dropout(self) -> bool:
        """Whether masks are drawn that depend on the number of ranks."""
        return any(stage.config.hidden_dropout or stage.config.attention_dropout for stage in self.stages)

    def weight_cut_off(self, stage: ResolvedStage, now: float) -> float:
        """The weight that the alignment of a stage still has at tick `now`, if it would end with the stage there; 0
        where the next stage goes on with it."""
        following = self.stages[stage.index + 1 : stage.index + 2]
        goes_on = any(each.align and stage.align and each.align.start == stage.align.start for each in following)
        return 0.0 if goes_on else stage.align_weight_at(now)

    @property
    def saved_states(self) -> list[str]:
        """Names of the states that this run saves under `checkpoints/`, apart from the checkpoints of its steps."""
        return saved_state_names(self.stages)

    def moment(self, ticks: float) -> str:
        """A point or a length on the run's clock, to read: `1,200 steps`, or `2:05:00 h`."""
        if self.unit == "steps":
            return f"{ticks:,.0f} steps"
        minutes, seconds = divmod(round(ticks), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02} h"


def saved_state_names(stages: Sequence[ResolvedStage]) -> list[str]:
    """What the stages keep, preceded by the state before the first step if some operator reads it."""
    read = {name for stage in stages for name in stage.saved_states_read}
    return [*([INITIAL] if INITIAL in read else []), *(stage.keep for stage in stages if stage.keep)]
