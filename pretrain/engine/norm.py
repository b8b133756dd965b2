"""The gradient's norm and the check for overflow at stage 0 in fp32, where DeepSpeed has neither."""

from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

from pretrain.engine.zero import basic_optimizer


def gradient_norm_before_step(engine: DeepSpeedEngine) -> float | None:
    """The norm before clipping, between backward and step. None where DeepSpeed reports it after the step.

    DeepSpeed 0.19.8 clips but reports nothing at ZeRO stage 0 in fp32. Split parameters count on every tensor-parallel
    rank, replicated ones once.
    """
    if engine.optimizer is not basic_optimizer(engine):
        return None
    tp = engine.module.tp
    counted = [
        p for p in engine.module.parameters() if p.grad is not None and (p.tensor_model_parallel or tp.rank == 0)
    ]
    square = torch.stack([p.grad.float().square().sum() for p in counted] or [torch.zeros(())]).sum()
    if tp.size > 1:
        dist.all_reduce(square, group=tp.group)
    return square.sqrt().item()


def skip_step(engine: DeepSpeedEngine) -> None:
    """Makes the next step change nothing, and counts it as skipped, as DeepSpeed itself does elsewhere."""
    optimizer: Any = basic_optimizer(engine)
    step = optimizer.step

    def skip(*arguments: Any, **options: Any) -> None:
        optimizer.step = step

    optimizer.step = skip
    engine.skipped_steps += 1


def mark_split_gradients(engine: DeepSpeedEngine) -> None:
    """Marks the gradients of split parameters: with 16-bit weights at stage 0, DeepSpeed 0.19.8 looks there.

    DeepSpeed does not set it, so split parameters would count on one tensor-parallel rank only.
    """
    if isinstance(engine.optimizer, FP16_UnfusedOptimizer):
        for parameter in engine.module.parameters():
            if parameter.requires_grad and parameter.tensor_model_parallel:
                parameter.register_post_accumulate_grad_hook(_mark_gradient)


def _mark_gradient(parameter: Any) -> None:
    parameter.grad.tensor_model_parallel = True
