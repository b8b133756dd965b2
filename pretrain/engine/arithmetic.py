"""Lets all replicas compute the gradients of the same rows, before any reduction, and says whose are wrong.

All of them rather than two: the others would wait for the two anyway, so every rank is looked at each time, and three
replicas already decide which is wrong. Under ZeRO 3 no rank could compute without the others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from model.batch import Batch
from model.parallel.layout import ParallelLayout
from pretrain.engine.distributed import device
from pretrain.engine.replicas import Difference, checksum, gather, odd_ones

FACTOR = 8.0
"""Where kernels are not deterministic, a replica is wrong that differs from the median by so much more than the others
differ from themselves."""

LEAST = 1e-6
"""A relative difference that may always be: of rounding."""

Verdict = tuple[tuple[int, ...], bool]
"""Replicas, and whether they are known to be wrong: see `Difference`."""


def wrong_arithmetic(engine: DeepSpeedEngine, batch: Batch, seed: int) -> Difference | None:
    """The ranks whose gradients of a micro-batch are not those of the others. Collective.

    `batch` and `seed` (of dropout) have to be the same on all ranks. On CPUs every bit of every gradient counts. On
    other devices a difference counts that stands out of those which replicas have when they compute again.
    """
    layout = ParallelLayout.current()
    ranks = torch.arange(dist.get_world_size()).view(layout.data_parallel, layout.tensor_parallel)
    figures, judge = (_bits, differ_in_bits) if device().type == "cpu" else (_size, differ_beyond_noise)
    first = gather(_gradients(engine, batch, seed, figures))[ranks]  # [replicas, tensor-parallel ranks, parameters, 2]
    if torch.equal(first, first[:1].expand_as(first)):
        return None
    wrong, known = judge(first, gather(_gradients(engine, batch, seed, figures))[ranks])
    return Difference(tuple(ranks[list(wrong)].flatten().tolist()), known=known) if wrong else None


def differ_in_bits(first: Tensor, again: Tensor) -> Verdict:
    """first, again [replicas, ...]: figures of two computations. A replica alone against one other is known to be
    wrong if it does not even agree with itself."""
    wrong, known = odd_ones({index: tuple(values.flatten().tolist()) for index, values in enumerate(first)})
    unsteady = tuple(index for index in wrong if not torch.equal(first[index], again[index]))
    return (unsteady, True) if not known and len(unsteady) == 1 else (wrong, known)


def differ_beyond_noise(first: Tensor, again: Tensor) -> Verdict:
    """As `differ_in_bits`, of sum and norm [..., 2] of gradients that differ a little each time."""
    size = first[..., 1:].nanquantile(0.5, dim=0).clamp_min(torch.finfo().tiny)
    deviation = _length((first - first.nanquantile(0.5, dim=0)) / size)
    noise = _length((again - first) / size)
    limit = [FACTOR * max(LEAST, *noise[:index], *noise[index + 1 :]) for index in range(len(noise))]
    wrong = tuple(index for index, value in enumerate(deviation) if value > limit[index])
    unsteady = tuple(index for index in wrong if noise[index] > limit[index])
    known = len(wrong) == 1 or 2 * len(wrong) < len(noise)
    return (unsteady, True) if not known and len(unsteady) == 1 else (wrong, known)


def _gradients(engine: DeepSpeedEngine, batch: Batch, seed: int, figures: Callable[[Tensor], Tensor]) -> Tensor:
    """[parameters, 2] figures of this rank's own gradients, which are neither kept nor reduced.

    Autograd hands them to hooks of the parameters before it would accumulate them, which is where DeepSpeed waits.
    """
    parameters = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
    found: dict[int, Tensor] = {}

    def take(index: int) -> Callable[[Tensor], Tensor]:
        def look(gradient: Tensor) -> Tensor:
            found[index] = figures(gradient)
            return gradient.new_zeros(()).expand_as(gradient)  # in its place, and without its memory

        return look

    hooks = [parameter.register_hook(take(index)) for index, parameter in enumerate(parameters)]
    num_sentences = 0 if batch.sentence_labels is None else len(batch.sentence_labels)
    try:
        torch.manual_seed(seed)
        with _whole_blocks_unreduced(engine):
            output = engine.module(batch.to(device()), 1 / max(len(batch.masked_ids), 1), 1 / max(num_sentences, 1))
            torch.autograd.grad(output.loss, parameters, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    nothing = torch.zeros(2, dtype=torch.float64, device=device())
    return torch.stack([found.get(index, nothing) for index in range(len(parameters))])


@contextmanager
def _whole_blocks_unreduced(engine: DeepSpeedEngine) -> Iterator[None]:
    """Passes that are made inside reduce nothing: for blocks that ZeRO 3 gathers whole, DeepSpeed 0.19.8 waits at the
    end of a block's backward pass and not at its parameters. What is called there is settled in the forward pass."""
    hooks = [(handle.hooks_dict_ref(), handle.id) for handle in getattr(engine.optimizer, "_leaf_module_hooks", ())]
    kept = [of_module[number] for of_module, number in hooks]
    for of_module, number in hooks:
        of_module[number] = lambda *_: None  # in its place, and so in its turn
    try:
        yield
    finally:
        for (of_module, number), hook in zip(hooks, kept, strict=True):
            of_module[number] = hook


def _bits(gradient: Tensor) -> Tensor:
    """[2] of which the first stands for every bit, exactly: a checksum has 32."""
    return torch.stack([checksum(gradient), checksum(gradient).new_zeros(())]).double()


def _size(gradient: Tensor) -> Tensor:
    """[2] sum and norm."""
    return torch.stack([gradient.sum(dtype=torch.float64), torch.linalg.vector_norm(gradient, dtype=torch.float64)])


def _length(values: Tensor) -> list[float]:
    """Of each vector values[i]; infinite where something in it is not finite."""
    return values.flatten(1).norm(dim=1).nan_to_num(nan=torch.inf).tolist()
