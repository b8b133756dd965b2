"""What carries over when a stage brings another optimizer: one rule, of what a move does and of what `plan` says.

A moment begins at zero. After t steps on a steady gradient g it is still short of the mean: exp_avg is (1 - beta^t) g,
and exp_avg_sq, with its own beta, (1 - beta^t) g^2. The new optimizer takes over what it would hold there itself, with
its own decay rates beta' and the parameter's step count t:

    exp_avg' = exp_avg (1 - beta1'^t) / (1 - beta1^t)        exp_avg_sq' = exp_avg_sq (1 - beta2'^t) / (1 - beta2^t)

Muon's momentum is such a mean here, too; as a sum, which Jordan's code keeps, it is exp_avg' / (1 - beta1').

A parameter starts over as a fresh one, with moments of zero and step 0,
- if it has no second moment and needs one: a matrix that comes from Muon. Its first moment cannot stay, because Adam
  corrects both by one step count: 1 / (1 - beta1) would make it ten times too large;
- if the two optimizers average different things: LANS and NVLAMB average gradients divided by norms that nobody keeps.
"""

from collections.abc import Callable
from dataclasses import dataclass

from growth.change import ShapeChange
from growth.moments import MomentRule
from growth.state import Fetch, Record
from model.config import BertConfig
from model.parameters import ParameterSpec, parameter_table


@dataclass(frozen=True)
class Averages:
    """What the moments of an optimizer are means of."""

    of: MomentRule
    """How they follow a change of shape. Optimizers with the same rule average the same gradients."""
    decay_rates: Callable[[ParameterSpec], tuple[float, ...]]
    """Per step, of each moment that it keeps of a parameter, exp_avg first."""


def num_carried(spec: ParameterSpec, before: Averages, after: Averages) -> int:
    """How many moments of a parameter the new optimizer takes over; 0 if it starts over."""
    kept, needed = len(before.decay_rates(spec)), len(after.decay_rates(spec))
    return needed if before.of is after.of and kept >= needed else 0


def carried_over(change: ShapeChange, before: Averages, after: Averages) -> ShapeChange:
    """The change, with moments for the optimizer `after` in place of `before`."""

    def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
        record, number = change.record(spec.name, fetch), num_carried(spec, before, after)
        moments = record.tensors()[1 : 1 + number]
        if not number or len(moments) < number:  # a saved state may be another optimizer's
            return Record.fresh(record.weight)
        rates = zip(moments, before.decay_rates(spec), after.decay_rates(spec), strict=False)
        factors = [(moment, reached(new, record.step) / reached(old, record.step)) for moment, old, new in rates]
        scaled = (moment if factor == 1 else moment * factor for moment, factor in factors)
        return Record.of((record.weight, *scaled), record.step)

    return ShapeChange(change.source, change.target, rule)


def reached(decay_rate: float, step: int) -> float:
    """The part of the mean that a moment has reached after some steps; 1 before the first, where it is zero anyway."""
    return 1 - decay_rate**step if step else 1.0


def starting_over(config: BertConfig, before: Averages, after: Averages) -> int:
    """How many parameters start over."""
    return _numbers(config, before, after).count(0)


def what_carries(config: BertConfig, before: Averages, after: Averages) -> str:
    """In words: `both moments of 30 tensors and the first of 12 carry over`."""
    numbers = _numbers(config, before, after)
    both, first, new = (numbers.count(number) for number in (2, 1, 0))
    carried = [*([f"both moments of {both} tensors"] if both else []), *([f"the first of {first}"] if first else [])]
    parts = [f"{' and '.join(carried)} carry over"] if carried else []
    return ", ".join([*parts, *([f"{new} start over at step 0"] if new else [])])


def _numbers(config: BertConfig, before: Averages, after: Averages) -> list[int]:
    return [num_carried(spec, before, after) for spec in parameter_table(config).values()]
