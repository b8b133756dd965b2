"""What ranks send each other in a step, against what they compute: too small a batch on too many ranks only waits."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from pretrain.cost.memory import FP32_BYTES, parameters_per_tensor_rank
from pretrain.cost.savings import stage_flops
from pretrain.recipe import ResolvedStage, Run

FLOPS_PER_SECOND = 156e12
"""Of a rank: half of an A100's peak in bf16. A faster one waits even more."""

BYTES_PER_SECOND = 47e9
"""Between nodes, as NCCL's tests count an all-reduce (bus bandwidth): a usual value for 400 Gbit/s a node."""

FEWEST_RANKS = 8
"""With fewer, all are in one machine, whose links are faster."""


@dataclass(frozen=True)
class Balance:
    """Seconds of one optimizer step on one rank, for gradients and weights."""

    work: float
    messages: float


def balance(stage: ResolvedStage) -> Balance:
    """At the rates above. Gradients are summed and weights gathered over the data-parallel ranks.

    A sum is a reduce-scatter and an all-gather: each moves all bytes once. ZeRO 2 reduces after each micro-batch (once
    where each rank clips its own gradient), ZeRO 3 also gathers the weights for each of its passes. What the optimizer
    itself computes and sends (Muon) counts on neither side: it does not depend on the rows.
    """
    flops = stage_flops(stage) - stage.optimizer.chosen.step_flops(stage.config)
    element = FP32_BYTES if stage.precision == "fp32" else 2
    size = element * parameters_per_tensor_rank(stage.config, stage.tensor_parallel, trained_only=True)
    reductions = 1 if stage.zero_stage < 2 or stage.clips_on_ranks else stage.accumulation
    rounds = 3 * reductions if stage.zero_stage == 3 else 1 + reductions
    sent = rounds * size * (stage.data_parallel - 1) / stage.data_parallel
    num_ranks = stage.data_parallel * stage.tensor_parallel
    return Balance(flops / num_ranks / FLOPS_PER_SECOND, sent / BYTES_PER_SECOND)


def outweighed(run: Run, on_cpu: bool) -> Iterator[str]:
    """A line for each stage in which messages take longer than the work. Nothing for ranks that this machine, where
    they compute `on_cpu`, may have itself: the rates are those of GPUs."""
    if run.num_ranks < FEWEST_RANKS or (on_cpu and run.num_ranks <= (os.cpu_count() or 1)):
        return
    for stage in run.stages:
        found = balance(stage)
        if found.messages > found.work:
            rows = stage.global_batch / stage.data_parallel
            yield (
                f"warning: stage {stage.name} has {rows:.3g} rows a rank and step: {1e3 * found.work:.3g} ms of work "
                f"against {1e3 * found.messages:.3g} ms of all-reduce (at {FLOPS_PER_SECOND / 1e12:.0f} TFLOP/s a rank "
                f"and {BYTES_PER_SECOND / 1e9:.0f} GB/s between nodes): use fewer ranks, or a recipe for larger "
                "batches, such as lamb-large"
            )
