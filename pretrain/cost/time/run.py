"""How long a run takes on a machine: its steps, and what lies between them."""

from dataclasses import dataclass, replace
from math import ceil, inf

from pretrain.cost.savings import target_config
from pretrain.cost.time.machine import Machine
from pretrain.cost.time.pauses import Change, change_seconds, checkpoint_seconds, state_bytes
from pretrain.cost.time.step import Step, StepTime, step_time
from pretrain.recipe import ResolvedStage, Run
from pretrain.recipe.pilots import pilot_steps


@dataclass(frozen=True)
class StageTime:
    """Seconds of one stage."""

    stage: ResolvedStage
    step: StepTime
    num_steps: float
    entry: Change
    """The change of shape or layout that leads here."""
    validation: float
    pause: float
    """Of one checkpoint."""
    checkpoints: float
    """The pauses in which the state is copied; the disk is written while training goes on."""

    @property
    def seconds(self) -> float:
        return self.num_steps * self.step.seconds + self.entry.seconds + self.validation + self.checkpoints


@dataclass(frozen=True)
class RunTime:
    """Seconds of a run, without its starts and its time in queues."""

    run: Run
    machine: Machine
    stages: tuple[StageTime, ...]
    pilots: float
    """Of the steps of the two pilots that date the first change of shape (`until: mixing`)."""
    from_scratch: float
    """The same steps over the same rows in the target's shape."""

    @property
    def seconds(self) -> float:
        return self.pilots + sum(each.seconds for each in self.stages)

    @property
    def num_nodes(self) -> int:
        return ceil(self.run.num_ranks / self.machine.ranks)

    @property
    def rank_hours(self) -> float:
        """Of all GPUs of the nodes, idle ones included."""
        return self.num_nodes * self.machine.ranks * self.seconds / 3600

    @property
    def price(self) -> float | None:
        return None if self.machine.price is None else self.machine.price * self.rank_hours

    @property
    def saving(self) -> float:
        """Share of the time from scratch that the run saves."""
        return 1 - self.seconds / self.from_scratch

    @property
    def save_seconds(self) -> float:
        """From the beginning of a checkpoint until it is on the disk: of the last stage, and at once."""
        last = self.run.stages[-1]
        pause = checkpoint_seconds(last, self.run.num_ranks, self.machine)
        return pause + write_seconds(self.machine, state_bytes(last))

    @property
    def longest_step(self) -> float:
        return max(each.step.seconds for each in self.stages)


def run_time(run: Run, machine: Machine, segment: float | None = None) -> RunTime:
    """`segment`: tokens within which attention is computed; None: whole rows."""
    stages = tuple(_stage_time(run, index, machine, segment) for index in range(len(run.stages)))
    target = target_config(run)
    scratch = sum(
        each.num_steps * step_time(run, replace(each.stage, config=target), machine, segment).seconds
        for each in stages
        if each.stage.config != target
    )
    scratch += sum(each.seconds - each.entry.seconds for each in stages if each.stage.config == target)
    pilots = sum(num_steps * stages[index].step.seconds for index, num_steps in pilot_steps(run).items())
    return RunTime(run, machine, stages, pilots, scratch)


def _stage_time(run: Run, index: int, machine: Machine, segment: float | None) -> StageTime:
    stage, recipe = run.stages[index], run.recipe
    step = step_time(run, stage, machine, segment)
    num_steps = stage.length if run.unit == "steps" else stage.length / step.seconds
    rows = ceil(recipe.validation.rows / (stage.data_parallel * stage.micro_batch))
    validations = num_steps / recipe.validation.every if recipe.validation.every else 0
    validations += (index == 0) + (index == len(run.stages) - 1)
    every = recipe.checkpoint.every or inf
    if recipe.checkpoint.minutes:
        every = min(every, 60 * recipe.checkpoint.minutes / step.seconds)
    pause = checkpoint_seconds(stage, run.num_ranks, machine)
    if not recipe.checkpoint.background:
        pause += write_seconds(machine, state_bytes(stage))
    return StageTime(
        stage=stage,
        step=step,
        num_steps=num_steps,
        entry=replace(change_seconds(run, index, machine), learning=stage.learning_steps * step.seconds),
        validation=validations * rows * Step(run, stage, machine, segment).forward_seconds(),
        pause=pause,
        checkpoints=(num_steps / every + 1) * pause,
    )


def write_seconds(machine: Machine, size: int) -> float:
    """All ranks to the one disk."""
    return size / (1e9 * machine.host.disk_gb_per_second)


def disk_bytes(time: RunTime) -> int:
    """What the run's folder takes at most: the checkpoints that are kept, and the one that is being written."""
    recipe, largest = time.run.recipe, max(state_bytes(stage) for stage in time.run.stages)
    num_steps = sum(each.num_steps for each in time.stages)
    kept = recipe.checkpoint.keep_last + 1
    if recipe.checkpoint.keep_every:
        kept += int(num_steps / recipe.checkpoint.keep_every)
    return kept * largest + sum(state_bytes(stage) for stage in time.run.stages if stage.keep)
