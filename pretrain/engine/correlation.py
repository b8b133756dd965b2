"""How much the gradients of the uses of a shared block agree, measured on a probe batch with the uses untied."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from growth.change import map_blocks
from growth.state import Fetch
from model.batch import Batch
from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from model.parallel.tensor import TensorParallel
from model.parameters import parameter_table
from pretrain.engine.build import build_model
from pretrain.engine.distributed import data_parallel_sum, device


def gradient_correlation(
    config: BertConfig,
    fetch: Fetch,
    layout: ParallelLayout,
    dtype: torch.dtype,
    batches: Sequence[Batch],
    shared: BertConfig | None = None,
) -> dict[str, float]:
    """Mean pairwise correlation of the per-use gradients, for every parameter of a block with several uses. Collective.

    `shared` is the sharing to measure, if not the state's own (layers that are about to share a block). A tied block
    yields only the mean of its uses' gradients. So a copy of the model with a block for each layer takes one forward
    and backward pass over this rank's `batches`, summed over all data-parallel ranks, without dropout. Values are
    clipped to [0, 1], the range that their user needs (growth/operators/unshare.py).
    """
    shared = shared or config
    tp = layout.install()
    gradients = _gradients_of_uses(config, fetch, tp, dtype, batches)
    correlation: dict[str, float] = {}
    for name, spec in parameter_table(shared).items():
        layers = shared.layers_of(spec.block) if spec.block is not None else []
        if len(layers) > 1:
            uses = torch.stack([gradients[f"blocks.{layer}.{spec.local_name}"].flatten() for layer in layers])
            cosines = _cosines(_products(uses, tp, spec.tensor_parallel_axis is not None))
            num_uses = len(cosines)
            mean = (cosines.sum() - cosines.diagonal().sum()) / (num_uses * (num_uses - 1))
            correlation[name] = min(max(mean.item(), 0.0), 1.0)
    return correlation


def neighbour_correlation(
    config: BertConfig, fetch: Fetch, layout: ParallelLayout, dtype: torch.dtype, batches: Sequence[Batch]
) -> dict[tuple[int, int], float]:
    """{(3, 4): correlation of the gradients of layers 3 and 4}, for uses of a block that follow each other. Collective.

    Measured as in `gradient_correlation`, over all parameters of a layer together; from -1 to 1. Frozen blocks have
    none. Where no other block has several uses, nothing is computed.
    """
    uses_of_blocks = [config.layers_of(block) for block in range(config.num_blocks) if not config.is_frozen(block)]
    shared = [layers for layers in uses_of_blocks if len(layers) > 1]
    if not shared:
        return {}
    tp = layout.install()
    gradients = _gradients_of_uses(config, fetch, tp, dtype, batches)
    untied = parameter_table(config.replace(sharing=None))
    correlation: dict[tuple[int, int], float] = {}
    for layers in shared:
        products = torch.zeros(len(layers), len(layers), dtype=torch.float64, device=device())
        for spec in untied.values():
            if spec.block == layers[0]:
                uses = torch.stack([gradients[f"blocks.{layer}.{spec.local_name}"].flatten() for layer in layers])
                products += _products(uses, tp, spec.tensor_parallel_axis is not None)
        cosines = _cosines(products).diagonal(1).tolist()
        correlation |= dict(zip(pairwise(layers), cosines, strict=True))
    return correlation


def _gradients_of_uses(
    config: BertConfig, fetch: Fetch, tp: TensorParallel, dtype: torch.dtype, batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """This rank's gradients on its rows, by the names of the untied model: how each layer would change its block."""
    untied = config.replace(sharing=None)
    model = build_model(untied, tp, dtype).eval()
    copies = map_blocks(config, untied, [config.block_of(layer) for layer in range(config.layers)])
    model.load_weights(lambda name: copies.record(name, fetch).weight)
    for batch in batches:
        model(batch.to(device())).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def _products(uses: Tensor, tp: TensorParallel, is_cut: bool) -> Tensor:  # [n, elements on this rank] -> [n, n]
    """Scalar products of the uses' gradients, float64."""
    uses = data_parallel_sum(uses.float())
    products = (uses @ uses.T).double()
    if is_cut and tp.size > 1:
        dist.all_reduce(products, group=tp.group)
    return products


def _cosines(products: Tensor) -> Tensor:  # [n, n]
    scale = products.diagonal().clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
    return products * scale.unsqueeze(0) * scale.unsqueeze(1)
