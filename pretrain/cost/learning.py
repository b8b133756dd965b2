"""What it costs to learn a change of shape (LiGO): steps over rows in which operators find their maps, and memory."""

from collections.abc import Iterator
from itertools import pairwise

from growth.learned_maps import num_coefficients
from growth.operators import shapes
from growth.operators.base import Operator
from growth.state import MOMENTS
from model.config import BertConfig
from model.parameters import parameter_table
from pretrain.cost.flops import training_flops
from pretrain.cost.memory import (
    FP32_BYTES,
    StateBytes,
    StepBytes,
    activation_bytes,
    num_parameters,
    parameters_per_tensor_rank,
    peak_bytes,
    process_bytes,
    stage_bytes,
)
from pretrain.recipe import ResolvedStage, Run

COPIES = 6
"""Of the maps: themselves, their gradient and the message that sums it, both moments, and what AdamW makes of them."""
ON_THE_WAY = 4
"""Copies of one weight as its gradient goes back to the maps: what it is made of, itself, and its gradient twice."""


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


def learning_bytes(run: Run, stage: ResolvedStage, on_cpu: bool) -> Iterator[tuple[StateBytes, StepBytes]]:
    """On one rank while a stage's operators learn: the old weights in fp32, the new ones with their gradients, and the
    maps, none of which ZeRO partitions (pretrain/engine/learned_maps.py). The state that is to be changed waits in the
    host's memory, spread over all ranks."""
    for _, source, target in _learned(*_entry(run, stage)):
        precision = "bf16" if stage.precision == "bf16" else "fp32"
        element = 2 if precision == "bf16" else FP32_BYTES
        old, new = num_parameters(source), parameters_per_tensor_rank(target, stage.tensor_parallel)
        tokens, largest = (
            stage.micro_batch * stage.sequence,
            max(spec.numel for spec in parameter_table(target).values()),
        )
        yield (
            StateBytes(
                weights=FP32_BYTES * old + element * new,
                gradients=element * new,
                optimizer=FP32_BYTES * COPIES * num_coefficients(source, target),
                host=FP32_BYTES * (1 + len(MOMENTS)) * old // run.num_ranks,
            ),
            StepBytes(
                activation_bytes(
                    target.replace(hidden_dropout=0, attention_dropout=0),
                    tokens,
                    stage.sequence,
                    round(tokens * stage.most_predicted),
                    precision,
                    stage.tensor_parallel,
                    on_cpu,
                    stage.recompute,
                ),
                buffers=0,
                afterwards=FP32_BYTES * ON_THE_WAY * largest,
                process=process_bytes(run.num_ranks, on_cpu),
            ),
        )


def most_bytes(run: Run, stage: ResolvedStage, on_cpu: bool) -> int:
    """The peak on one rank in a stage: in its steps, or while its operators learn before them."""
    held = (stage_bytes(stage, on_cpu), *learning_bytes(run, stage, on_cpu))
    return max(peak_bytes(*each, on_cpu) for each in held)


def learning_notes(run: Run) -> Iterator[str]:
    """A line for each stage whose operators learn."""
    for before, stage in pairwise(run.stages):
        for operator, _, _ in _learned(before, stage):
            yield (
                f"{stage.name}: {operator.name} first takes {operator.learning_steps:,} steps on its maps, "
                f"{learning_flops(before, stage):.3g} FLOP; no ZeRO stage divides the memory for them"
            )


def _entry(run: Run, stage: ResolvedStage) -> tuple[ResolvedStage, ResolvedStage]:
    """The stage before, and the stage; the first one twice, which learns nothing."""
    return run.stages[max(stage.index - 1, 0)], stage


def _learned(before: ResolvedStage, stage: ResolvedStage) -> Iterator[tuple[Operator, BertConfig, BertConfig]]:
    """The operators that learn, each with the shapes before and after it."""
    if stage.learning_steps:
        path = shapes(before.config, stage.grow, stage.shape)
        for operator, source, target in zip(stage.grow, path, path[1:], strict=False):
            if operator.learning_steps:
                yield operator, source, target
