"""The gradient's norm: on a GPU in few launches, and read without waiting for the update; and with a check for overflow
at stage 0 in fp32, where DeepSpeed has neither."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.utils import is_model_parallel_parameter
from torch import Tensor

from pretrain.engine.distributed import computes_on_gpu, device
from pretrain.engine.readback import Readback
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
        p.grad for p in engine.module.parameters() if p.grad is not None and (p.tensor_model_parallel or tp.rank == 0)
    ]
    if counted and counted[0].is_cuda:
        square = torch.stack(torch._foreach_norm(counted)).square().sum()
    else:
        square = torch.stack([grad.float().square().sum() for grad in counted] or [torch.zeros(())]).sum()
    if tp.size > 1:
        dist.all_reduce(square, group=tp.group)
    return square.sqrt().item()


def speed_up_norm(engine: DeepSpeedEngine) -> None:
    """ZeRO computes the norm of one gradient after another, in two launches each; a GPU waits for each launch.

    A CPU has nothing to gain, and keeps its bits.
    """
    zero = engine.optimizer
    if engine.zero_optimization_stage() > 0 and computes_on_gpu():
        zero.get_grad_norm_direct = multi_tensor_norm(zero.get_grad_norm_direct, zero.model_parallel_rank == 0)


def copy_norm_before_update(engine: DeepSpeedEngine) -> None:
    """ZeRO leaves the norm on the device. Read after the step, it would come behind the update; so it is copied before,
    when the gradients of the first group are clipped."""
    zero = engine.optimizer
    if engine.zero_optimization_stage() > 0 and computes_on_gpu():
        clip = zero.unscale_and_clip_grads
        copied: Any = None

        def copy_and_clip(*arguments: Any) -> Any:
            nonlocal copied
            if zero._global_grad_norm is not copied:  # every step has a new one, and calls this for each group
                copied = zero._global_grad_norm
                zero.copied_norm = Readback(torch.as_tensor(copied))
            return clip(*arguments)

        zero.unscale_and_clip_grads = copy_and_clip


def gradient_norm_after_step(engine: DeepSpeedEngine) -> float:
    """The norm before clipping, of a step that was taken, where DeepSpeed reports it."""
    copied = getattr(engine.optimizer, "copied_norm", None)
    return float(engine.get_global_grad_norm()) if copied is None else copied.tolist()


Norm = Callable[[Sequence[Tensor], Sequence[Any]], Tensor]
"""DeepSpeed's: the norm over all ranks of gradients, given with their parameters."""


def multi_tensor_norm(norm: Norm, counts_replicated: bool) -> Norm:
    """The same in one multi-tensor operation: `norm` gets a single tensor, the norms of all gradients, which has the
    same norm. `counts_replicated`: whether this rank counts what every tensor-parallel rank has."""

    def of_all(gradients: Sequence[Tensor], parameters: Sequence[Any]) -> Tensor:
        real = [gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False)]
        if any(gradient.device != device() for gradient in real):  # offloaded
            return norm(gradients, parameters)
        pairs = zip(real, parameters, strict=False)  # as DeepSpeed pairs them
        counted = [pair for pair in pairs if counts_replicated or is_model_parallel_parameter(pair[1])]
        if not counted:
            return norm([torch.zeros(1, device=device())], parameters[:1])
        norms = torch._foreach_norm([gradient for gradient, _ in counted], 2, dtype=torch.float64)
        return norm([torch.stack(norms)], [counted[0][1]])

    return of_all


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
