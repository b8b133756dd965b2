"""What it costs to learn a change of shape (LiGO): steps over rows in which operators find their maps."""

from collections.abc import Iterator
from itertools import pairwise

from growth.learned_maps import num_coefficients
from growth.operators import shapes
from growth.operators.base import Operator
from model.config import BertConfig
from pretrain.cost.flops import training_flops
from pretrain.cost.memory import FP32_BYTES, num_parameters, parameters_per_tensor_rank
from pretrain.recipe import ResolvedStage, Run

COPIES = 4
"""Of the maps: themselves, their gradient, both moments."""


def learning_flops(before: ResolvedStage, stage: ResolvedStage) -> int:
    """Of all steps in which the operators of a stage learn, over its rows."""
    predictions = round(stage.global_batch * stage.sequence * stage.predicted_share)
    return sum(
        operator.learning_steps
        * (
            training_flops(target, stage.global_batch, stage.sequence, predictions)
            + operator.learning_flops(source, target)
        )
        for operator, source, target in _learned(before, stage)
    )


def learning_bytes(stage: ResolvedStage, source: BertConfig, target: BertConfig) -> int:
    """On one rank, besides activations: the old weights whole and in fp32, the maps, and the new weights with their
    gradients, which ZeRO does not partition here."""
    element = FP32_BYTES if stage.precision != "bf16" else 2
    old, maps = num_parameters(source), COPIES * num_coefficients(source, target)
    return FP32_BYTES * (old + maps) + 2 * element * parameters_per_tensor_rank(target, stage.tensor_parallel)


def learning_notes(run: Run) -> Iterator[str]:
    """A line for each stage whose operators learn."""
    for before, stage in pairwise(run.stages):
        for operator, source, target in _learned(before, stage):
            size = learning_bytes(stage, source, target) / 2**30
            yield (
                f"{stage.name}: {operator.name} first takes {operator.learning_steps:,} steps on its maps, "
                f"{learning_flops(before, stage):.3g} FLOP; a rank then holds {size:.2g} GiB besides activations, "
                "under any ZeRO stage"
            )


def _learned(before: ResolvedStage, stage: ResolvedStage) -> Iterator[tuple[Operator, BertConfig, BertConfig]]:
    """The operators that learn, each with the shapes before and after it."""
    if stage.learning_steps:
        path = shapes(before.config, stage.grow, stage.shape)
        for operator, source, target in zip(stage.grow, path, path[1:], strict=False):
            if operator.learning_steps:
                yield operator, source, target
