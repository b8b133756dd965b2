"""This rank's place in the layout of a stage."""

import torch.distributed as dist

from model.parallel.layout import ParallelLayout
from pretrain.recipe import ResolvedStage


def layout_of(stage: ResolvedStage) -> ParallelLayout:
    return ParallelLayout(stage.tensor_parallel, stage.data_parallel)


def data_parallel_rank(stage: ResolvedStage) -> int:
    """This rank's place among those that read different rows."""
    return layout_of(stage).data_parallel_rank(dist.get_rank())
