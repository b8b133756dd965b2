"""Compares what has to be equal on several ranks: copies of weights, and gradients of the same rows.

Memory, a network card or a processor can change a number without an error. Nothing else sees that: a changed weight
still trains, and a wrong gradient is summed with right ones.
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.config import ZeroStageEnum
from torch import Tensor

from model.parallel.layout import ParallelLayout
from pretrain.engine.distributed import device
from pretrain.engine.zero import model_weights


@dataclass(frozen=True)
class Difference:
    """Ranks that hold something else than they should."""

    ranks: tuple[int, ...]
    tensor: str = ""
    """The first that differs."""
    known: bool = True
    """False where as many ranks hold one thing as another: any of `ranks` may be the one that is wrong."""


def different_replica(engine: DeepSpeedEngine) -> Difference | None:
    """The first of the model's weights that is not the same in all its copies. Collective.

    Data-parallel ranks hold copies of every weight (under ZeRO 3 of none), tensor-parallel ranks of those that are not
    cut. Under ZeRO 1 and 2 these are the weights as they were gathered, which the model computes with.
    """
    cut = {name: parameter.tensor_model_parallel for name, parameter in engine.module.named_parameters()}
    sums = {name: checksum(weight) for name, weight in model_weights(engine).items()}
    totals = [torch.stack([sums[name] for name in sums if cut[name] == kind]).sum() for kind in (False, True)]
    if all(_agree(copies, gather(total)) for copies, total in zip(_copies(engine), totals, strict=True)):
        return None
    values = gather(torch.stack(list(sums.values())))  # [ranks, weights]
    kept, split = _copies(engine)
    for index, name in enumerate(sums):
        for ranks in split if cut[name] else kept:
            odd, known = odd_ones({rank: int(values[rank, index]) for rank in ranks})
            if odd:
                return Difference(odd, name, known=known)
    raise AssertionError("the sums of all weights differ, and those of none")


def checksum(tensor: Tensor) -> Tensor:
    """[] int64: the sum of a tensor's elements, their bits taken as integers. It changes with any one bit."""
    words = tensor.detach().view({2: torch.int16, 4: torch.int32}[tensor.element_size()])
    return words.sum(dtype=words.dtype).long()  # overflows wrap around, which loses no single bit


def gather(values: Tensor) -> Tensor:
    """[ranks, ...]: everyone's, on the CPU. Collective."""
    values = values.to(device())
    everyones = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, values)
    return torch.stack(everyones).cpu()


def odd_ones(values: Mapping[int, Hashable]) -> tuple[tuple[int, ...], bool]:
    """Of {rank: value}, the ranks whose value is not that of most, and True; all and False where no value is that of
    more than half of them."""
    (most, number), *_ = Counter(values.values()).most_common()
    if 2 * number > len(values):
        return tuple(rank for rank, value in values.items() if value != most), True
    return tuple(values), False


Copies = list[list[int]]
"""Ranks in groups that hold the same."""


def _copies(engine: DeepSpeedEngine) -> tuple[Copies, Copies]:
    """Of the weights that are whole on every tensor-parallel rank, and of those that are cut."""
    layout = ParallelLayout.current()
    ranks = torch.arange(dist.get_world_size()).view(layout.data_parallel, layout.tensor_parallel)
    if engine.zero_optimization_stage() == ZeroStageEnum.weights:
        return ranks.tolist(), []
    return [ranks.flatten().tolist()], ranks.T.tolist()


def _agree(copies: Copies, values: Tensor) -> bool:
    return all(len(set(values[ranks].tolist())) == 1 for ranks in copies)
