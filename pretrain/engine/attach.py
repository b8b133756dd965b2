"""Attaches an optimizer that needs whole parameters, or norms of them, to an engine, which has cut them into parts."""

from collections import defaultdict
from functools import partial

import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.config import ZeroStageEnum
from torch import Tensor

from model.parameters import parameter_table
from pretrain.engine.distributed import device
from pretrain.engine.exchange import division_of
from pretrain.engine.zero import basic_optimizer, num_step_calls, places, publish
from pretrain.optim.layerwise import LayerwiseOptimizer, Partition, Segment


def attach_optimizer(engine: DeepSpeedEngine) -> None:
    """Tells a layer-wise optimizer where its parameters are. AdamW treats every element alike and need not know."""
    optimizer = basic_optimizer(engine)
    if isinstance(optimizer, LayerwiseOptimizer):
        optimizer.attach(partition(engine))


def partition(engine: DeepSpeedEngine) -> Partition:
    """Which elements of which parameter lie where in the flat tensors that the optimizer steps on."""
    table = parameter_table(engine.module.config)
    number = {name: index for index, name in enumerate(table)}
    tp = engine.module.tp
    segments: dict[Tensor, list[Segment]] = defaultdict(list)
    for place in places(engine):
        is_copy = table[place.name].tensor_parallel_axis is None and tp.rank > 0
        segments[place.flat].append(Segment(number[place.name], place.offset, place.numel, counts=not is_copy))
    return Partition(
        segments,
        numels=[spec.numel for spec in table.values()],
        num_calls=num_step_calls(engine),
        group=_ranks_with_parts(engine),
        device=device(),
        publish=partial(publish, engine),
        division=division_of(engine),
    )


def _ranks_with_parts(engine: DeepSpeedEngine) -> dist.ProcessGroup | None:
    """The ranks that share one copy of the optimizer's state. At stage 0 every data-parallel rank has its own copy."""
    if engine.zero_optimization_stage() == ZeroStageEnum.disabled:
        return engine.module.tp.group if engine.module.tp.size > 1 else None
    return dist.group.WORLD if dist.get_world_size() > 1 else None
