"""`until: gradient_correlation` (SWE-A): layers that share a block no longer agree on how to change it.

Yang et al. 2021 (arXiv 2110.03848): at intervals the gradients of neighbouring layers are correlated. SWE-A unshares
all layers when more than half of the pairs are below a threshold at three checks in a row. With units of A layers,
repeated B times, neighbours are consecutive uses of one block: layers i and i + A.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from pretrain.settings.values import Number, Positive, PositiveAmount
from pretrain.stage_rules.base import Check, Pair, Verdict, Watch, item_to_json
from pretrain.stage_rules.view import RunView, StageView, TrainingView


class GradientCorrelation(Check):
    key: ClassVar[str] = "gradient_correlation"

    below: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """Two neighbouring uses of a block disagree if their gradients correlate less than this."""
    every: PositiveAmount = 1000
    """Check every N steps."""
    checks: Positive = 3
    """Act once the rule has held at N consecutive checks."""

    def words(self) -> str:
        return f"more than half of the neighbours' gradients correlate below {self.below:g}{self.checks_in_words()}"

    def fault(self, stage: StageView, run: RunView) -> str | None:
        if stage.config.sharing is not None:
            return None
        return "until.gradient_correlation: no layers share a block here, so there is nothing to compare; remove it"

    def watch(self, training: TrainingView) -> Watch:
        return LayersDisagree(self)


class LayersDisagree(Watch):
    event = "neighbour_correlation"

    def __init__(self, rule: GradientCorrelation):
        super().__init__(rule.key, rule.steps_between, rule.checks)
        self.below = rule.below

    def check(self, training: TrainingView) -> Verdict:
        correlations = measure(training)
        return Verdict.of(most_are_below(correlations, self.below), values=to_json(correlations))


def measure(training: TrainingView) -> dict[Pair, float]:
    """The correlation of the gradients of neighbouring uses of every block, on the probe batch. Collective."""
    from model.parallel.layout import ParallelLayout
    from pretrain.engine.build import PRECISIONS
    from pretrain.engine.correlation import neighbour_correlation
    from pretrain.engine.exchange import read_state
    from pretrain.engine.spread import fetch_from

    stage, fetch = training.stage, fetch_from(read_state(training.engine))
    precision, rows = PRECISIONS[stage.precision], training.probe(stage)
    return neighbour_correlation(stage.config, fetch, ParallelLayout.current(), precision, rows)


def to_json(correlations: Mapping[Pair, float]) -> dict[str, float]:
    """{"3-4": the correlation of layers 3 and 4}."""
    return {item_to_json(pair): correlation for pair, correlation in correlations.items()}


def most_are_below(correlations: Mapping[Pair, float], below: float) -> bool:
    """Whether more than half are."""
    return 2 * sum(correlation < below for correlation in correlations.values()) > len(correlations)
