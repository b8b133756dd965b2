"""Whether layers that share a block still want the same of it: SWE-A ends the stage, SWE-M splits its groups.

Yang et al. 2021 (arXiv 2110.03848): every so many steps the gradients of neighbouring layers are correlated. SWE-A
unshares all layers when more than half of the pairs are below rho at three checks in a row; SWE-M splits a group
between two layers whose own correlation is below rho, by the same count. With units of A layers, repeated B times,
neighbours are the uses of one block that follow each other: layers i and i + A.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from growth.partial_shape import PartialShape
from model.parallel.layout import ParallelLayout
from pretrain.checkpoint.progress import Decision
from pretrain.engine.build import PRECISIONS
from pretrain.engine.correlation import neighbour_correlation
from pretrain.engine.exchange import fetch_from, read_state
from pretrain.stage_rules.base import Rule, Verdict
from pretrain.stage_rules.settings import GradientCorrelation
from pretrain.training.events import TrainerView


class LayersDisagree(Rule):
    """SWE-A."""

    event = "neighbour_correlation"

    def __init__(self, name: str, settings: GradientCorrelation):
        super().__init__(name, settings.every, settings.checks)
        self.below = settings.below

    def check(self, trainer: TrainerView) -> Verdict:
        correlations = measure(trainer)
        return Verdict.of(most_are_below(correlations, self.below), values=correlations)


class PairsDisagree(LayersDisagree):
    """SWE-M."""

    def check(self, trainer: TrainerView) -> Verdict:
        correlations = measure(trainer)
        apart = frozenset(pair for pair, correlation in correlations.items() if correlation < self.below)
        return Verdict(apart, {"values": correlations})

    def decide(self, trainer: TrainerView, agreed: Collection[str]) -> Decision:
        config = trainer.stage.config
        block_of = [config.block_of(layer) for layer in range(config.layers)]
        shape = PartialShape(sharing=split_groups(block_of, {int(pair.split("-")[0]) for pair in agreed}))
        return Decision(trainer.stage.index, end=trainer.now, shape=shape)


def measure(trainer: TrainerView) -> dict[str, float]:
    """{"3-4": correlation} for the neighbouring uses of every block, on the probe batch. Collective."""
    stage, layout = trainer.stage, ParallelLayout.current()
    fetch = fetch_from(read_state(trainer.engine))
    return neighbour_correlation(stage.config, fetch, layout, PRECISIONS[stage.precision], trainer.probe(stage))


def most_are_below(correlations: Mapping[str, float], below: float) -> bool:
    """Whether more than half are."""
    return 2 * sum(correlation < below for correlation in correlations.values()) > len(correlations)


def split_groups(block_of: Sequence[int], after: Collection[int]) -> list[int]:
    """The block of every layer once the uses of a block above each layer in `after` have one of their own."""
    newest: dict[int, int] = {}
    """For each old block the new one that its next use belongs to."""
    blocks = []
    num_blocks = 0
    for layer, old in enumerate(block_of):
        if old not in newest:
            newest[old], num_blocks = num_blocks, num_blocks + 1
        blocks.append(newest[old])
        if layer in after:
            del newest[old]
    return blocks
