"""The cost of a run that changes shape, compared with training its target from scratch, from first principles.

The usual measure (Gu et al. 2021): speedup = cost of the target from scratch / cost of the run - 1, at the same number
of steps. Whether both reach the same loss is a separate question, which `compare` answers.
"""

from dataclasses import dataclass

from model.config import BertConfig
from model.fields import Flag
from pretrain.cost.flops import training_flops
from pretrain.recipe import ResolvedStage, Run


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
    """Counts stages that a rule may end early at full length. The run must be measured in steps."""
    assert run.unit == "steps"
    rate, last = run.recipe.data.mask_rate, run.stages[-1]

    def cost(config: BertConfig | None = None, sequence: int | None = None) -> float:
        return sum(stage_flops(stage, rate, config, sequence) * stage.length for stage in run.stages)

    target = target_config(run)
    return CostComparison(cost(), cost(target), cost(target, last.sequence))


def target_config(run: Run) -> BertConfig:
    """The most expensive shape of the run (the last if several are), with nothing frozen, skipped or to be pruned."""
    configs = dict.fromkeys(stage.config for stage in reversed(run.stages))  # each once: the cost takes a while
    whole = [config.without(Flag.NOT_IN_TARGET) for config in configs]
    sequence, rate = run.stages[-1].sequence, run.recipe.data.mask_rate
    return max(whole, key=lambda config: training_flops(config, 1, sequence, round(sequence * rate)))


def changes_shape(run: Run) -> bool:
    """Whether some stage has a different shape from the target."""
    target = target_config(run)
    return any(stage.config != target for stage in run.stages)


def stage_flops(
    stage: ResolvedStage, mask_rate: float, config: BertConfig | None = None, sequence: int | None = None
) -> int:
    """FLOPs of one step over all ranks: gradients, and what the optimizer does with them. `config` and `sequence`
    replace the stage's shape and row length."""
    config, sequence = config or stage.config, sequence or stage.sequence
    predictions = round(stage.global_batch * sequence * mask_rate)
    of_gradients = training_flops(config, stage.global_batch, sequence, predictions)
    return of_gradients + stage.optimizer.chosen.step_flops(config)
