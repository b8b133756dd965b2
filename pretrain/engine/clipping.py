"""Clips the gradient of each data-parallel rank, bucket by bucket, before the ranks' gradients are averaged.

Kim et al. 2024 (Breaking MLPerf Training, arXiv 2402.02447). A rank's gradient g is that of its own rows, over all of
its micro-batches, in the scale in which the mean over the ranks is the gradient of the global batch. With B buckets g_b
and a norm c (`grad_clip`; theirs is 1):

    g_b <- c g_b / (sqrt(B) max(|g_b|, c / sqrt(B)))

So |g| <= c on every rank, and for the mean as well. A bucket of at most c / sqrt(B) keeps its bits.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from model.parallel.tensor import TensorParallel
from pretrain.engine.distributed import device


def clip_before_reduction(engine: DeepSpeedEngine, buckets: Sequence[Sequence[str]], norm: float) -> None:
    """Makes an engine of ZeRO 1 or 2 clip so, in buckets of these parameters, and then reduce once in a step.

    DeepSpeed's ZeRO 2 would reduce after every micro-batch. Here gradients are summed where they are computed until the
    last one, as under ZeRO 1, which takes the memory of ZeRO 1.
    """
    zero, tp = engine.optimizer, engine.module.tp
    named = dict(engine.module.named_parameters())
    parameters = [[named[name] for name in bucket] for bucket in buckets]
    zero._coalesce_grad_reduction = True  # no gradient is reduced when it is ready

    def clip_and_reduce() -> None:
        if engine.is_gradient_accumulation_boundary():
            clip(parameters, norm * zero.loss_scale, tp)
            engine._flush_coalesced_reduction_zero12(zero)

    engine.allreduce_gradients = clip_and_reduce


def clip(buckets: Sequence[Sequence[Any]], norm: float, tp: TensorParallel) -> None:
    """Clips the gradients of these parameters in place. Collective among the tensor-parallel ranks of a replica, which
    count split parameters on each and replicated ones once. A gradient that is not finite makes its bucket NaN."""
    squares = torch.stack([_square(bucket, counts_replicated=tp.rank == 0) for bucket in buckets])  # [B]
    if tp.size > 1:
        dist.all_reduce(squares, group=tp.group)
    largest = norm / math.sqrt(len(buckets))
    factors = largest / squares.sqrt().clamp(min=largest)
    for bucket, factor in zip(buckets, factors, strict=True):
        for parameter in bucket:
            if parameter.grad is not None:
                parameter.grad.copy_(parameter.grad.float() * factor)


def _square(bucket: Sequence[Any], counts_replicated: bool) -> Tensor:  # [] float64, in which no square overflows
    gradients = [
        parameter.grad
        for parameter in bucket
        if parameter.grad is not None and (parameter.tensor_model_parallel or counts_replicated)
    ]
    if not gradients:
        return torch.zeros((), dtype=torch.float64, device=device())
    return torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float64)).square().sum()
