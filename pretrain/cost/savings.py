"""The cost of a run that changes shape, compared with training its target from scratch, from first principles.

The usual measure (Gu et al. 2021): speedup = cost of the target from scratch / cost of the run - 1, at the same number
of steps. Whether both reach the same loss is a separate question, which `compare` answers.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

from model.config import BertConfig
from model.fields import Flag
from pretrain.cost.flops import encoder_flops, training_flops
from pretrain.cost.learning import learning_flops
from pretrain.recipe import ResolvedStage, Run
from pretrain.recipe.pilots import pilot_steps


@dataclass(frozen=True)
class CostComparison:
    """FLOPs of a whole run and of its target from scratch."""

    run: float
    target: float
    """On the same rows and tokens."""
    target_at_full_length: float
    """On the same number of rows, each as long as those of the last stage."""

    @property
    def speedup(self) -> float:
        return self.target / self.run - 1

    @property
    def full_length_speedup(self) -> float:
        return self.target_at_full_length / self.run - 1


def compare_costs(run: Run) -> CostComparison:
    """Counts stages that a rule may end early at full length, the pilots of such a rule, and the steps in which
    operators learn. The run must be measured in steps."""
    assert run.unit == "steps"
    target = target_config(run)

    def cost_of_target(sequence: int | None = None) -> float:
        return sum(target_flops(run, stage, target, sequence) * stage.length for stage in run.stages)

    cost = sum(stage_flops(stage) * stage.length for stage in run.stages) + extra_flops(run)
    return CostComparison(cost, cost_of_target(), cost_of_target(run.stages[-1].sequence))


def extra_flops(run: Run) -> float:
    """Of all that a run computes besides the steps of its stages."""
    return pilot_flops(run) + sum(learning_flops(before, stage) for before, stage in pairwise(run.stages))


def pilot_flops(run: Run) -> float:
    """Of the two pilots that date the first change of shape, if the recipe asks for them (`until: mixing`). One of them
    makes that change."""
    steps = pilot_steps(run)
    change = learning_flops(*run.stages[:2]) if steps else 0
    return change + sum(num_steps * stage_flops(run.stages[index]) for index, num_steps in steps.items())


def target_config(run: Run) -> BertConfig:
    """The most expensive shape of the run (the last if several are), with nothing frozen, skipped or to be pruned."""
    configs = dict.fromkeys(stage.config for stage in reversed(run.stages))  # each once: the cost takes a while
    whole = [config.without(Flag.NOT_IN_TARGET) for config in configs]
    last = run.stages[-1]
    predicted = round(last.sequence * last.predicted_share)
    return max(whole, key=lambda config: training_flops(config, 1, last.sequence, predicted))


def changes_shape(run: Run) -> bool:
    """Whether some stage has a different shape from the target."""
    target = target_config(run)
    return any(stage.config != target for stage in run.stages)


def target_flops(run: Run, stage: ResolvedStage, target: BertConfig, sequence: int | None = None) -> int:
    """FLOPs of one step of the target from scratch, on the rows of a stage: it has the last stage's objective and
    optimizer."""
    last = run.stages[-1]
    trained = replace(stage, objective=last.objective, mask_rate=last.mask_rate, optimizer=last.optimizer)
    return stage_flops(replace(trained, config=target, sequence=sequence or stage.sequence, align=None))


def stage_flops(stage: ResolvedStage) -> int:
    """FLOPs of one step over all ranks, in the mean of the stage: gradients, what the optimizer does with them, and a
    teacher."""
    config, sequence = stage.config, stage.sequence
    predictions = round(stage.global_batch * sequence * stage.predicted_share)
    of_gradients = training_flops(config, stage.global_batch, sequence, predictions)
    of_teacher = round(stage.aligned_share * teacher_flops(stage))
    return of_gradients + of_teacher + stage.optimizer.chosen.step_flops(config)


def teacher_flops(stage: ResolvedStage) -> int:
    """The forward pass, without heads, of the frozen teacher in a step that computes it; 0 without one, or where its
    shape is not known. Cosines are no matrix products."""
    if stage.align is None or stage.align.config is None:
        return 0
    return stage.global_batch * encoder_flops(stage.align.config, stage.sequence)
