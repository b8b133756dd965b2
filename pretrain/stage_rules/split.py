"""A stage's `split` (SWE-M): blocks are split while the stage runs, between layers that no longer agree.

Yang et al. 2021 (arXiv 2110.03848), as in `gradient_correlation.py`; but every pair of neighbours is counted alone, and
a group of layers splits between two whose gradients correlate too little. The stage is divided where that happens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, ClassVar

from pretrain.stage_rules.base import Item, Verdict, Watch
from pretrain.stage_rules.gradient_correlation import GradientCorrelation, LayersDisagree, measure, to_json
from pretrain.stage_rules.view import RunView, StageView, TrainingView

if TYPE_CHECKING:
    from pretrain.checkpoint.progress import Decision


class Split(GradientCorrelation):
    key: ClassVar[str] = "split"

    def words(self) -> str:
        return f"groups split where the gradients of neighbours correlate below {self.below:g}{self.checks_in_words()}"

    def fault(self, stage: StageView, run: RunView) -> str | None:
        if stage.config.sharing is None:
            return "split: no layers share a block here, so there is nothing to split; remove it"
        if stage.until and stage.until.gradient_correlation:
            return "split and until.gradient_correlation both act on the same correlations; give one of them"
        for later in run.stages[stage.index + 1 :]:
            if later.grow and later.grow[0].gives_each_layer_its_own_block(later.shape):
                return None
            if later.grow or "sharing" in later.shape:
                return (
                    f"split: the groups are not known beforehand, so stage {later.name} has to begin with grow: "
                    "unshare, without shape.sharing"
                )
        return None

    def applies(self, stage: StageView) -> bool:
        """Not once the groups have split completely."""
        return stage.config.sharing is not None

    def watch(self, training: TrainingView) -> Watch:
        return PairsDisagree(self)


class PairsDisagree(LayersDisagree):
    def check(self, training: TrainingView) -> Verdict:
        correlations = measure(training)
        disagree = frozenset(pair for pair, correlation in correlations.items() if correlation < self.below)
        return Verdict(disagree, {"values": to_json(correlations)})

    def decide(self, training: TrainingView, agreed: Collection[Item]) -> Decision:
        from growth.partial_shape import PartialShape
        from pretrain.checkpoint.progress import Decision

        config = training.stage.config
        block_of = [config.block_of(layer) for layer in range(config.layers)]
        lower_layers = {pair[0] for pair in agreed if isinstance(pair, tuple)}
        shape = PartialShape(sharing=split_groups(block_of, lower_layers))
        return Decision(training.stage.index, end=training.now, shape=shape)


def split_groups(block_of: Sequence[int], after: Collection[int]) -> list[int]:
    """The block of every layer, once the uses of a block above each layer in `after` get a separate block."""
    newest: dict[int, int] = {}
    """For each old block, the new block of its next use."""
    blocks = []
    num_blocks = 0
    for layer, old in enumerate(block_of):
        if old not in newest:
            newest[old], num_blocks = num_blocks, num_blocks + 1
        blocks.append(newest[old])
        if layer in after:
            del newest[old]
    return blocks
