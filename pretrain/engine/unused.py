"""Work that DeepSpeed 0.19.8 does under ZeRO 1 and 2 and whose result nobody uses: skipped, with equal results.

It takes 2.5% of a small model's step on a CPU. `tests/pretrain/engine/test_unused.py` fails when a DeepSpeed release no
longer does it.
"""

from typing import Any

import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer


def skip_unused_work(engine: DeepSpeedEngine) -> None:
    """Replaces methods of this engine's ZeRO optimizer. An optimizer on the CPU has other work there and keeps them."""
    zero = engine.optimizer
    if not isinstance(zero, DeepSpeedZeroOptimizer) or zero.cpu_offload:
        return
    zero.check_overflow = _leave_it_to_the_norm
    if engine.zero_optimization_stage() == ZeroStageEnum.optimizer_states and _gradients_stay_in_place(zero):
        zero.reduce_ready_partitions_and_remove_grads = _keep_the_gradient


def _leave_it_to_the_norm(partition_gradients: bool = True) -> None:
    """Replaces a search of every gradient for infinities, and a message about it.

    DeepSpeed computes the norm of the gradients next. It is not finite either where one of them is not, and DeepSpeed
    then skips the step.
    """


def _keep_the_gradient(parameter: Any, group: int) -> None:
    """Replaces a copy into a bucket, a reduction over one rank, and a copy out of the bucket."""


def _gradients_stay_in_place(zero: DeepSpeedZeroOptimizer) -> bool:
    """Whether there is one data-parallel rank, and gradients are summed in the precision they are reduced in."""
    return dist.get_world_size(zero.dp_process_group) == 1 and zero.gradient_accumulation_dtype == zero.dtype
