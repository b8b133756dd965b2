"""The learning rate of a run, from the schedules in its recipe."""

from collections.abc import Sequence

from model.errors import UserError
from pretrain.recipe.run import ResolvedStage, Unit
from pretrain.recipe.schedule import LearningRate, Phase, StageRate
from pretrain.recipe.schema import Recipe, Restart, Schedule
from pretrain.recipe.timeline import in_ticks


def learning_rate(recipe: Recipe, stages: Sequence[ResolvedStage], unit: Unit) -> LearningRate:
    """One phase from the start of the run or from each restart to the next; shares in a schedule are of its phase.

    Its peak is that of its first stage's optimizer. A later stage with another one has the rate in proportion.
    """
    restarts = [
        (stage.start, stage.restart, f"stage {stage.name}: schedule.restart") for stage in stages if stage.restart
    ]
    starts = [(0, recipe.schedule, "schedule"), *restarts] if not restarts or restarts[0][0] else restarts
    ends = [start for start, *_ in starts[1:]] + [stages[-1].end]
    first_of = [next(stage for stage in stages if stage.start == start) for start, *_ in starts]
    phases = []
    for (start, schedule, key), end, first in zip(starts, ends, first_of, strict=True):
        length = end - start
        warmup = in_ticks(schedule.warmup, length, unit, f"{key}.warmup")
        hold = _hold(schedule, length, warmup, unit, key)
        peak = (isinstance(schedule, Restart) and schedule.lr) or first.optimizer.lr
        phases.append(Phase(start, length, peak, warmup, hold, schedule.shape, schedule.end, schedule.power))

    def rate(stage: ResolvedStage) -> StageRate:
        first = next(first for first in reversed(first_of) if first.start <= stage.start)
        return StageRate(stage.start, stage.rewarm, stage.lr_scale * (stage.optimizer.lr / first.optimizer.lr))

    return LearningRate(tuple(phases), tuple(map(rate, stages)))


def _hold(schedule: Schedule, length: float, warmup: float, unit: Unit, key: str) -> float:
    """Ticks at the peak: as many as are asked for, or what warmup and decay leave."""
    hold = in_ticks(schedule.hold, length, unit, f"{key}.hold")
    if schedule.decay is None:
        return hold
    decay = in_ticks(schedule.decay, length, unit, f"{key}.decay")
    if hold:
        raise UserError(f"{key}: hold and decay both say when the decay begins; leave one of them out")
    if warmup + decay > length:
        raise UserError(
            f"{key}: warmup ({warmup:g}) and decay ({decay:g}) take longer than the {length:g} {unit} that the "
            "schedule covers; lower one of them"
        )
    return length - warmup - decay
