"""How much the gradients of a shared block's uses agree, measured on a probe batch with the uses untied."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from growth.change import map_blocks
from growth.state import Fetch
from model.batch import Batch
from model.config import BertConfig
from model.parallel import ParallelLayout, TensorParallel
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

    `shared` is the sharing to measure where it is not the state's own (layers about to share a block). A tied block
    yields only the mean of its uses' gradients, so a copy of the model with a block for each layer takes one forward
    and backward pass over this rank's `batches`, summed over all data-parallel ranks, without dropout. Values are
    clipped to [0, 1]: the estimate they serve (growth/operators/unshare.py) has no use for less.
    """
    shared = shared or config
    tp = layout.install()
    untied = config.replace(sharing=None)
    model = build_model(untied, tp, dtype).eval()
    copies = map_blocks(config, untied, [config.block_of(layer) for layer in range(config.layers)])
    model.load_weights(lambda name: copies.record(name, fetch).weight)
    for batch in batches:
        model(batch.to(device())).loss.backward()

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    correlation = {}
    for name, spec in parameter_table(shared).items():
        layers = shared.layers_of(spec.block) if spec.block is not None else []
        if len(layers) > 1:
            uses = torch.stack([gradients[f"blocks.{layer}.{spec.local_name}"].flatten() for layer in layers])
            correlation[name] = _mean_correlation(uses, tp, spec.tensor_parallel_axis is not None)
    return correlation


def _mean_correlation(uses: Tensor, tp: TensorParallel, is_cut: bool) -> float:  # [n, elements on this rank]
    uses = data_parallel_sum(uses.float())
    gram = (uses @ uses.T).double()  # [n, n]
    if is_cut and tp.size > 1:
        dist.all_reduce(gram, group=tp.group)
    scale = gram.diagonal().clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
    cosines = gram * scale.unsqueeze(0) * scale.unsqueeze(1)
    num_uses = len(gram)
    mean = (cosines.sum() - cosines.diagonal().sum()) / (num_uses * (num_uses - 1))
    return min(max(mean.item(), 0.0), 1.0)
