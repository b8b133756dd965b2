"""The stages of a run after what it has decided while it ran.

A recipe says what may happen, a run's decisions say what did. They are saved with its progress, so a resumed run has
the same stages again.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from growth.operators import default_operators, shapes
from growth.partial_shape import PartialShape
from pretrain.checkpoint.progress import Decision
from pretrain.recipe.learning_rate import learning_rate
from pretrain.recipe.run import ResolvedStage, Run
from pretrain.recipe.schedule import LearningRate
from pretrain.recipe.schema import NewUnitRate
from pretrain.recipe.teachers import with_kept_teachers


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
    """The stages moved earlier by some ticks, with the alignments that they begin. Each keeps its length but the last,
    which lasts to the end of the run."""
    begin, end = stages[0].start, stages[-1].end

    def moved(stage: ResolvedStage) -> ResolvedStage:
        align = stage.align
        if align and align.start >= begin:
            align = align.moved(-ticks)
        return replace(stage, start=stage.start - ticks, end=stage.end - ticks, align=align)

    *before, last = map(moved, stages)
    return [*before, replace(last, end=end)]


def _divided(stage: ResolvedStage, tick: float, shape: PartialShape) -> tuple[ResolvedStage, ResolvedStage]:
    """`tied` becomes `tied` up to the tick and `tied/2` after it, where some blocks are split."""
    rest = replace(
        stage,
        part=stage.part + 1,
        start=tick,
        grow=tuple(default_operators(stage.config, shape)),
        shape=shape,
        rewarm=0,
        new_unit_rate=NewUnitRate(),
        restart=None,
    )
    return replace(stage, end=tick, keep=None), rest


def _carried_on(run: Run, stages: Sequence[ResolvedStage]) -> LearningRate:
    """The learning rate over the stages that were decided.

    Each phase keeps its planned length: a restart that comes earlier cuts the curve off without bending it. Only the
    last phase lasts to the end of the run. The parts of a divided stage count as one stage, so its climb continues.
    """
    rate = learning_rate(run.recipe, stages, run.unit)
    pairs = zip(run.learning_rate.phases, rate.phases, strict=True)
    moved = [replace(planned, start=phase.start) for planned, phase in pairs]
    begun = {stage.start for stage in stages if stage.part == 1}
    return LearningRate((*moved[:-1], rate.phases[-1]), tuple(each for each in rate.stages if each.start in begun))


def _in_sequence(stages: Sequence[ResolvedStage]) -> list[ResolvedStage]:
    """The stages numbered, each with the shape that follows from the stage before."""
    followed: list[ResolvedStage] = [stages[0]]
    for index, stage in enumerate(stages[1:], start=1):
        before = followed[-1].config
        grow = tuple(operator for operator in stage.grow if not operator.is_done_by_splits(before))
        config = shapes(before, grow, stage.shape)[-1]
        config.check_tensor_parallel(stage.tensor_parallel)
        followed.append(replace(stage, index=index, grow=grow, config=config))
    return list(with_kept_teachers(followed))
