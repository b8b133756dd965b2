"""What a run decides while it goes, and the stages it has then.

A recipe says what may happen; a run's decisions say what did. They are saved with its progress, so that a run that is
resumed has the stages that it had.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

from growth.operators import shapes
from growth.operators.unshare import Unshare
from pretrain.recipe.resolve import ResolvedStage, Run, learning_rate
from pretrain.recipe.schedule import LearningRate


@dataclass(frozen=True)
class Decision:
    """With an end alone the stage ended there; with a shape too it goes on from there in that shape, as a stage of its
    own; a shape alone is what the stage turned out to have."""

    stage: int
    """Index in the run as it was."""
    end: float | None = None
    """In ticks of the run's clock."""
    shape: dict[str, Sequence[int]] = field(default_factory=dict)
    """Fields of the model."""

    @property
    def shape_in_words(self) -> str:
        return ", ".join(f"{field} {' '.join(map(str, values))}" for field, values in self.shape.items())


def decided(run: Run, decisions: Sequence[Decision]) -> Run:
    """The run after its decisions, in their order."""
    return reduce(_decide, decisions, run)


def _decide(run: Run, decision: Decision) -> Run:
    before, (stage, *after) = list(run.stages[: decision.stage]), run.stages[decision.stage :]
    if decision.end is None:
        stages = [*before, replace(stage, shape=stage.shape | decision.shape), *after]
    elif decision.shape:
        stages = [*before, *_divided(stage, decision.end, decision.shape), *after]
    else:
        stages = [*before, replace(stage, end=decision.end), *_brought_forward(after, stage.end - decision.end)]
    stages = _in_sequence(stages)
    return replace(run, stages=tuple(stages), learning_rate=_carried_on(run, stages))


def _brought_forward(stages: Sequence[ResolvedStage], ticks: float) -> list[ResolvedStage]:
    """The stages earlier by so much and as long as they were, but for the last: the run ends when it would have."""
    end = stages[-1].end
    moved = [replace(stage, start=stage.start - ticks, end=stage.end - ticks) for stage in stages]
    return [*moved[:-1], replace(moved[-1], end=end)]


def _divided(stage: ResolvedStage, tick: float, shape: dict[str, Any]) -> tuple[ResolvedStage, ResolvedStage]:
    """`tied` -> `tied` up to the tick and `tied/2` from there on, whose blocks are split."""
    name, _, number = stage.name.partition("/")
    rest = replace(
        stage, name=f"{name}/{int(number or 1) + 1}", start=tick, grow=(Unshare(),), shape=shape, rewarm=0, restart=None
    )
    return replace(stage, end=tick, keep=None), rest


def _carried_on(run: Run, stages: Sequence[ResolvedStage]) -> LearningRate:
    """The learning rate over the stages that were decided.

    A phase is as long as planned: a restart that comes earlier cuts its curve off and does not bend it. Only the last
    one lasts to the end of the run. A divided stage is one stage here, so that its climb goes on.
    """
    rate = learning_rate(run.recipe, stages, run.unit)
    pairs = zip(run.learning_rate.phases, rate.phases, strict=True)
    moved = [replace(planned, start=phase.start) for planned, phase in pairs]
    begun = {stage.start for stage in stages if "/" not in stage.name}
    return LearningRate((*moved[:-1], rate.phases[-1]), tuple(each for each in rate.stages if each.start in begun))


def _in_sequence(stages: Sequence[ResolvedStage]) -> list[ResolvedStage]:
    """The stages with their index, and each with the shape that follows from the one before it."""
    followed: list[ResolvedStage] = [stages[0]]
    for index, stage in enumerate(stages[1:], start=1):
        before = followed[-1].config
        grow = stage.grow
        if before.sharing is None:  # groups that split to the end leave nothing to unshare
            grow = tuple(operator for operator in grow if not isinstance(operator, Unshare))
        config = shapes(before, grow, stage.shape)[-1]
        config.check_tensor_parallel(stage.tensor_parallel)
        followed.append(replace(stage, index=index, grow=grow, config=config))
    return followed
