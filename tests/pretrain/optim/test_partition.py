"""The norms of whole parameters from parts cut any way: float64, to 1e-12, with as few collectives as there can be."""

from math import prod

import pytest
import torch
import torch.distributed as dist

from pretrain.optim.lamb.step import Lamb
from pretrain.optim.lans.step import Lans
from pretrain.optim.layerwise import Partition, Segment
from pretrain.optim.stableadamw.step import StableAdamW
from tests.support.workers import pool

SHAPES = {"word": (14, 5), "input": (8, 5), "bias": (8,), "output": (5, 8), "norm": (5,)}
CUT = {"word": 0, "input": 0, "bias": 0, "output": 1}
"""The axis that tensor parallelism cuts; `norm` is on every rank."""
GROUPS = ({"word", "input", "output"}, {"bias", "norm"})
NUMELS = [prod(shape) for shape in SHAPES.values()]
STEPS = 20


def values(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def options(kind, variant: dict) -> dict:
    return dict(lr=0.02, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1) | (variant if kind is Lamb else {})


def whole(kind, variant) -> dict[str, torch.Tensor]:
    parameters = {name: torch.nn.Parameter(value) for name, value in values(0).items()}
    optimizer = kind(parameters.values(), **options(kind, variant))
    for step in range(STEPS):
        for name, gradient in values(step + 1).items():
            parameters[name].grad = gradient
        optimizer.step()
    return parameters


def in_parts(kind, variant, tp: int) -> tuple[float, int, list[int]]:
    """Parameters cut over `tp` ranks, flattened by group, and cut again over the rest, as ZeRO does.

    Returns the largest difference from the whole, the collectives of one step, and the calls published again.
    """
    rank, dp = dist.get_rank(), dist.get_world_size() // tp
    tp_rank, dp_rank = rank % tp, rank // tp
    numbers = {name: number for number, name in enumerate(SHAPES)}

    def shards(tensors):
        return {n: t.chunk(tp, CUT[n])[tp_rank] if n in CUT else t for n, t in tensors.items()}

    def flat_part(tensors, group):
        flat = torch.cat([tensors[name].reshape(-1) for name in SHAPES if name in group])
        size = -(-len(flat) // dp)
        padded = torch.cat([flat, flat.new_zeros(size * dp - len(flat))])
        return padded[dp_rank * size : (dp_rank + 1) * size].clone()

    start = shards(values(0))
    flats = [torch.nn.Parameter(flat_part(start, group)) for group in GROUPS]
    segments = {}
    for flat, group in zip(flats, GROUPS, strict=True):
        first, last, position, segments[flat] = dp_rank * len(flat), (dp_rank + 1) * len(flat), 0, []
        for name in (name for name in SHAPES if name in group):
            low, high = max(position, first), min(position + start[name].numel(), last)
            if low < high:
                counts = name in CUT or tp_rank == 0
                segments[flat].append(Segment(numbers[name], low - first, high - low, counts))
            position += start[name].numel()

    published = []
    optimizer = kind([{"params": [flat]} for flat in flats], **options(kind, variant))
    optimizer.attach(Partition(segments, NUMELS, len(GROUPS), dist.group.WORLD, publish=published.append))
    num_collectives = 0
    original = dist.all_reduce

    def counting(*arguments, **keywords):
        nonlocal num_collectives
        num_collectives += 1
        return original(*arguments, **keywords)

    dist.all_reduce = counting
    try:
        groups = optimizer.param_groups
        for step in range(STEPS):
            gradients = shards(values(step + 1))
            for index, group in enumerate(groups):  # one call for each group, as DeepSpeed makes them
                flats[index].grad = flat_part(gradients, GROUPS[index])
                optimizer.param_groups = [group]
                optimizer.step()
                flats[index].grad = None
            optimizer.param_groups = groups
    finally:
        dist.all_reduce = original

    expected = shards({name: parameter.detach() for name, parameter in whole(kind, variant).items()})
    difference = max(
        (flat.detach() - flat_part(expected, group)).abs().max().item()
        for flat, group in zip(flats, GROUPS, strict=True)
    )
    return difference, num_collectives // STEPS, published


@pytest.mark.parametrize(
    ("kind", "variant", "collectives"),
    [
        pytest.param(Lamb, {}, 1, id="lamb"),
        pytest.param(Lamb, {"prenormalize": "always"}, 2, id="nvlamb"),
        pytest.param(Lans, {}, 2, id="lans"),
        pytest.param(StableAdamW, {}, 1, id="stableadamw"),
    ],
)
@pytest.mark.parametrize(("ranks", "tp"), [(2, 1), (2, 2), (4, 2)])
def test_parts_follow_the_whole(ranks, tp, kind, variant, collectives):
    for difference, found, published in pool(ranks).run(in_parts, kind, variant, tp):
        assert difference < 1e-12
        assert found == collectives
        assert published == [0] * STEPS, "only the first call's weights were passed on before they were written"
