"""Learns the maps of a change of shape (LiGO): steps on the maps alone, through the frozen weights that they map.

Each rank has the model of its tensor-parallel place, as `build_model` makes it, and computes its part of the weights
from the maps: for the model, and once more to take their gradients back to the maps. So the model runs as it always
does, and no more than one weight's way from the maps is kept. The maps are small and the same on all ranks, which sum
their gradients. The old weights are whole on every rank, but for those that are cut along an axis without a map, such
as the word table; the new ones and their gradients are not partitioned. There is no dropout: the maps do not depend on
the parallel layout, but for the order of sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from growth.learned_maps import LearnedMaps, Learning
from growth.state import Fetch
from model.batch import Batch
from model.bert import BertForPreTraining
from model.parallel.layout import ParallelLayout
from model.parallel.tensor import TensorParallel
from model.parameters import parameter_table
from pretrain.engine.build import build_model
from pretrain.engine.distributed import device
from pretrain.engine.host_copy import HOST, moved

LARGEST_NORM = 1.0
"""Of the maps' gradient: a larger one is scaled down, as in the released code."""


@dataclass(frozen=True)
class LearningRows:
    """This rank's micro-batches of a global batch."""

    batches: Sequence[Batch]
    mlm_scale: float
    """1 / masked tokens of the global batch."""
    sentence_scale: float
    """1 / its sentence pairs."""


def learn_maps(
    maps: LearnedMaps,
    learning: Learning,
    fetch: Fetch,
    layout: ParallelLayout,
    dtype: torch.dtype,
    read: Callable[[], LearningRows],
    recompute: bool = False,
) -> tuple[LearnedMaps, list[float]]:
    """The maps after their steps, the same on all ranks, and the loss before each step. Collective.

    `fetch` gives the old state, `read` the rows of the next step. `dtype`: of the model; the maps are fp32, or fp64
    with it. A step whose gradient is not finite changes nothing.
    """
    tp = layout.install()
    of_maps = torch.promote_types(dtype, torch.float32)
    maps = maps.each(lambda tensor: moved(tensor.to(of_maps), device(), copy=True).requires_grad_())
    optimizer = torch.optim.AdamW(maps.tensors(), learning.lr, weight_decay=learning.weight_decay)
    old = _old_weights(maps, fetch, tp, of_maps)
    model = build_model(maps.target, tp, dtype).eval()
    model.recompute = recompute
    losses = []
    for _ in range(learning.steps):
        _write_weights(model, maps, old)
        losses.append(_gradients(model, maps, old, read()))
        norm = torch.nn.utils.clip_grad_norm_(maps.tensors(), LARGEST_NORM)
        if norm.isfinite():
            optimizer.step()
        optimizer.zero_grad()
    for tensor in maps.tensors():
        dist.broadcast(tensor.detach(), src=0)  # equal already, unless a library's sums differ from rank to rank
    return maps.each(lambda tensor: moved(tensor.detach(), HOST)), losses


def _old_weights(maps: LearnedMaps, fetch: Fetch, tp: TensorParallel, dtype: torch.dtype) -> dict[str, Tensor]:
    """What each parameter of the target is made of on this rank, [number, *shape]. Those of the same kind in several
    layers are made of the same."""
    own: dict[str, Tensor] = {}
    for name, spec in parameter_table(maps.source).items():
        weight = fetch(name).weight
        own[name] = moved(weight if maps.maps_the_cut(spec) else tp.shard(spec, weight), device()).to(dtype)
    stacked: dict[tuple[str, ...], Tensor] = {}
    old: dict[str, Tensor] = {}
    for name, spec in parameter_table(maps.target).items():
        sources = tuple(maps.sources(spec))
        if sources not in stacked:
            stacked[sources] = torch.stack([own.pop(source) for source in sources])
        old[name] = stacked[sources]
    return old


@torch.no_grad()
def _write_weights(model: BertForPreTraining, maps: LearnedMaps, old: dict[str, Tensor]) -> None:
    table, part = parameter_table(maps.target), (model.tp.rank, model.tp.size)
    for name, parameter in model.named_parameters():
        parameter.copy_(maps.grown(table[name], old[name], part).reshape(parameter.shape))
        parameter.grad = None


def _gradients(model: BertForPreTraining, maps: LearnedMaps, old: dict[str, Tensor], rows: LearningRows) -> float:
    """Gives the maps the gradient of the mean loss of a global batch, which is returned."""
    table, tp = parameter_table(maps.target), model.tp
    loss = torch.zeros((), dtype=torch.float64, device=device())
    for batch in rows.batches:
        output = model(batch.to(device()), rows.mlm_scale, rows.sentence_scale)
        output.loss.backward()
        loss += output.loss.detach().double() / tp.size
    for name, parameter in model.named_parameters():
        weight = maps.grown(table[name], old[name], (tp.rank, tp.size))
        if parameter.grad is not None and weight.requires_grad:
            num_holders = tp.size if table[name].tensor_parallel_axis is None else 1  # each has its whole gradient
            weight.backward(parameter.grad.to(weight).reshape(weight.shape) / num_holders)
    _sum_over_ranks(maps.tensors())
    dist.all_reduce(loss)
    return loss.item()


def _sum_over_ranks(tensors: list[Tensor]) -> None:
    """The gradients of these tensors, in one message."""
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in tensors]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for each, total in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True):
        each.grad = total.view_as(each)
