"""Muon on parts cut any way follows a reference in numpy on whole matrices: 20 steps in float64, to 1e-12.

DeepSpeed cannot reduce float64 gradients, so the cuts are made here as it makes them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from model.config import BertConfig
from model.parallel.division import Cut, Division
from model.parallel.layout import ParallelLayout
from model.parallel.tensor import shard
from model.parameter_spec import ParameterSpec
from model.parameters import parameter_table
from pretrain.optim.adamw_step import AdamW
from pretrain.optim.groups import GroupRules
from pretrain.optim.layerwise import Partition, Segment
from pretrain.optim.muon.step import Muon
from tests.support.muon_reference import MuonReference, is_matrix
from tests.support.workers import pool

CONFIG = BertConfig(
    layers=2, hidden=8, heads=4, head_dim=3, ffn=20, vocab_size=128, max_positions=5,
    low_rank={"attention.output": 5, "feedforward.input": 3},
)  # fmt: skip
TABLE = parameter_table(CONFIG)
STEPS, LR = 20, 0.02
RULES = GroupRules(weight_decay=0.1, orthogonalizes=True, other_lr=0.5)
APART: dict[str, Any] = dict(heads_apart=True, scale="moonshot", nesterov=False, steps=3)
LAYOUTS = ((1, 1, {}), (1, 1, APART), (2, 1, {}), (2, 2, APART), (4, 2, {}), (4, 2, APART))


def values(seed: int) -> dict[str, Tensor]:
    """Sizes differ from step to step by orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    size = 10.0 ** (seed % 3 - 1)
    return {
        name: size * torch.randn(spec.shape, generator=generator, dtype=torch.float64) for name, spec in TABLE.items()
    }


@cache
def expected(options: tuple) -> dict[str, np.ndarray]:
    """The weights after all steps, by the reference."""
    reference = MuonReference(values(0), LR, 0.1, lr_factor=0.5, **dict(options))
    for step in range(STEPS):
        reference.step({name: value.numpy() for name, value in values(step + 1).items()})
    return reference.w


def cuts(stage: int, layout: ParallelLayout, groups: list[list[str]]) -> dict[str, Cut]:
    """As DeepSpeed's stages cut: not at all; a flat tensor for each group; each parameter by itself."""
    numel = {name: int(np.prod(spec.local_shape(layout.tensor_parallel))) for name, spec in TABLE.items()}
    if stage == 0:
        return {name: Cut(0, numel[name], copied=True) for name in TABLE}
    if stage == 3:
        return {name: Cut(0, -(-numel[name] // layout.data_parallel)) for name in TABLE}
    found = {}
    for names in groups:
        run, offset = -(-sum(numel[name] for name in names) // layout.data_parallel), 0
        for name in names:
            found[name] = Cut(offset, run)
            offset += numel[name]
    return {name: found[name] for name in TABLE}


class Cell:
    """Flat tensors of one rank, one for each group of parameters, and what lies where in them."""

    def __init__(self, tp: int, stage: int):
        self.rank, self.tp = dist.get_rank(), tp
        self.layout = ParallelLayout(tp, dist.get_world_size() // tp)
        kinds: dict[tuple, list[str]] = {}
        for name, spec in TABLE.items():
            kinds.setdefault((RULES.decay_of(spec), RULES.moments_of(spec)), []).append(name)
        self.groups = list(kinds.values())
        self.division = Division(TABLE, self.layout, cuts(stage, self.layout, self.groups))

    def flat(self, tensors: Mapping[str, Tensor], names: list[str]) -> Tensor:
        parts = []
        for name in names:
            start, numel = self.division.held(name, self.rank)
            own = shard(TABLE[name], tensors[name], self.rank % self.tp, self.tp).reshape(-1)
            parts.append(own[start : start + numel])
        return torch.cat(parts).clone()

    def segments(self, names: list[str]) -> Iterator[Segment]:
        position = 0
        for name in names:
            _, numel = self.division.held(name, self.rank)
            if numel:
                yield Segment(list(TABLE).index(name), position, numel)
            position += numel

    def optimizer(self, division: Division | None = None, **options: Any) -> tuple[Muon, list[Tensor]]:
        flats = [torch.nn.Parameter(self.flat(values(0), names)) for names in self.groups]
        optimizer = Muon(
            [self.settings(names, flat) for names, flat in zip(self.groups, flats, strict=True)], **options
        )
        segments = {flat: list(self.segments(names)) for names, flat in zip(self.groups, flats, strict=True)}
        numels = [spec.numel for spec in TABLE.values()]
        optimizer.attach(Partition(segments, numels, len(self.groups), division=division or self.division))
        return optimizer, flats

    @staticmethod
    def settings(names: list[str], flat: Tensor) -> dict[str, Any]:
        spec: ParameterSpec = TABLE[names[0]]
        return {
            "params": [flat],
            "lr": LR * RULES.lr_scale(CONFIG, spec),
            "weight_decay": RULES.decay_of(spec),
            "moments": RULES.moments_of(spec),
            "orthogonalize": spec.is_layer_matrix,
        }

    def steps(self, optimizer: Muon, flats: list[Tensor], count: int = STEPS) -> None:
        """One call for each group, as DeepSpeed makes them."""
        groups = optimizer.param_groups
        for step in range(count):
            for names, flat, group in zip(self.groups, flats, groups, strict=True):
                flat.grad = self.flat(values(step + 1), names)
                optimizer.param_groups = [group]
                optimizer.step()
            optimizer.param_groups = groups

    def difference(self, flats: list[Tensor], weights: Mapping[str, np.ndarray]) -> float:
        """The largest between this rank's weights and those."""
        whole = {name: torch.tensor(weight) for name, weight in weights.items()}
        pairs = zip(self.groups, flats, strict=True)
        return max((flat.detach() - self.flat(whole, names)).abs().max().item() for names, flat in pairs if len(flat))


def follow(tp: int, stage: int, options: dict[str, Any]) -> tuple[float, set[str]]:
    """The largest difference from the reference, and the moments kept of matrices."""
    cell = Cell(tp, stage)
    optimizer, flats = cell.optimizer(betas=(0.9, 0.999), eps=1e-6, **options)
    cell.steps(optimizer, flats)
    kept = {
        key for group in optimizer.param_groups if group["orthogonalize"] for key in optimizer.state[group["params"][0]]
    }
    return cell.difference(flats, expected(tuple(options.items()))), kept


@pytest.mark.parametrize(
    ("ranks", "tp", "stage", "options"),
    [
        pytest.param(ranks, tp, stage, options, id=f"{ranks}ranks-tp{tp}-cut{stage}-{'apart' if options else 'whole'}")
        for ranks, tp, options in LAYOUTS
        for stage in (0, 1, 3)
    ]
    + [pytest.param(4, 4, 0, {}, id="4ranks-tp4")],
)
def test_parts_follow_the_reference_on_whole_matrices(ranks, tp, stage, options):
    for difference, kept in pool(ranks).run(follow, tp, stage, options):
        assert difference < 1e-12
        assert kept == {"exp_avg", "step"}


def each_shard_by_itself(tp: int) -> float:
    """As if what tensor parallelism leaves on a rank were the whole matrix: the error of one step, as a part of it."""
    cell = Cell(tp, 0)
    local = {
        name: replace(
            spec,
            axes=tuple(replace(axis, size=size) for axis, size in zip(spec.axes, spec.local_shape(tp), strict=True)),
            tensor_parallel_axis=None,
        )
        for name, spec in TABLE.items()
    }
    alone = Division(local, ParallelLayout(1, 1), cell.division.cuts)
    with mock.patch.object(dist, "get_rank", return_value=0):
        optimizer, flats = cell.optimizer(alone)
    before = [flat.detach().clone() for flat in flats]
    cell.steps(optimizer, flats, 1)
    reference = MuonReference(values(0), LR, 0.1, lr_factor=0.5)
    reference.step({name: value.numpy() for name, value in values(1).items()})
    whole = {name: torch.tensor(weight) for name, weight in reference.w.items()}
    error = step = 0.0
    for names, flat, old in zip(cell.groups, flats, before, strict=True):
        if is_matrix(names[0]):
            error += (flat.detach() - cell.flat(whole, names)).square().sum().item()
            step += (cell.flat(whole, names) - old).square().sum().item()
    return (error / step) ** 0.5


def test_a_shard_by_itself_is_off_by_tens_of_percent():
    assert all(error > 0.2 for error in pool(2).run(each_shard_by_itself, 2))


def one_step_on(factor: float) -> dict[str, np.ndarray]:
    """What a step moves the matrices by, on gradients multiplied by `factor`."""
    cell = Cell(1, 0)
    optimizer, flats = cell.optimizer()
    before = [flat.detach().clone() for flat in flats]
    with mock.patch.object(Cell, "flat", lambda self, tensors, names: factor * FLAT(self, tensors, names)):
        cell.steps(optimizer, flats, 1)
    moved = zip(cell.groups, flats, before, strict=True)
    return {names[0]: (flat.detach() - old).numpy() for names, flat, old in moved if is_matrix(names[0])}


FLAT = Cell.flat


@pytest.mark.parametrize("factor", [1e3, 1e-12])
def test_the_size_of_a_gradient_does_not_matter_to_matrices(factor):
    """Nothing is added to the norm: not even a vanishing gradient is damped."""
    (plain,), (other,) = pool(1).run(one_step_on, 1.0), pool(1).run(one_step_on, factor)
    assert plain
    for name, moved in plain.items():
        np.testing.assert_allclose(other[name], moved, rtol=0, atol=1e-12 * np.abs(moved).max())


def fused_as_adamw(steps: int) -> bool:
    """Whether all but matrices have the bits of AdamW's step."""
    cell = Cell(1, 0)
    optimizer, flats = cell.optimizer(betas=(0.9, 0.98), eps=1e-6)
    cell.steps(optimizer, flats, steps)
    others = [index for index, names in enumerate(cell.groups) if not is_matrix(names[0])]
    plain = [torch.nn.Parameter(cell.flat(values(0), cell.groups[index])) for index in others]
    groups = [cell.settings(cell.groups[index], flat) for index, flat in zip(others, plain, strict=True)]
    adamw = AdamW(groups, betas=(0.9, 0.98), eps=1e-6, fused=True)
    for step in range(steps):
        for index, flat in zip(others, plain, strict=True):
            flat.grad = cell.flat(values(step + 1), cell.groups[index])
        adamw.step()
    return all(torch.equal(flats[index], flat) for index, flat in zip(others, plain, strict=True))


def test_all_but_matrices_take_the_step_of_adamw_bitwise():
    assert pool(1).run(fused_as_adamw, 5) == [True]
