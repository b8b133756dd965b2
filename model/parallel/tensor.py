"""Tensor parallelism as one rank sees it: its regions, its part of a tensor, its own random numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.parallel import own_draws
from model.parallel import sequence as sequence_parallel
from model.parameter_spec import ParameterSpec


@dataclass(frozen=True)
class TensorParallel:
    """This rank's place in its tensor-parallel group. The default: alone, no process group needed."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    sequence_parallel: bool = False
    """Between two regions each rank holds its part of the tokens, [B, S / tp, H], instead of all."""
    gathers_again: bool = True
    """With sequence parallelism: what enters a region is gathered a second time in the backward pass, not kept."""

    @property
    def _ranks(self) -> dist.ProcessGroup:
        assert self.group is not None, "one rank alone has no group"
        return self.group

    def enter(self, tensor: Tensor) -> Tensor:
        """Identity forward, sum over ranks backward: what every rank holds whole, before a weight whose output axis is
        cut."""
        if self.size == 1:
            return tensor
        from model.parallel.regions import copy_to_tensor_model_parallel_region

        return copy_to_tensor_model_parallel_region(tensor, group=self.group)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks forward, identity backward."""
        if self.size == 1:
            return tensor
        from model.parallel.regions import reduce_from_tensor_model_parallel_region

        return reduce_from_tensor_model_parallel_region(tensor, group=self.group)

    def enter_through(self, x: Tensor, *linears: nn.Module) -> list[Tensor]:
        """Hidden states into a region, through linear layers whose output axis is cut.

        x: all tokens [B, S, H], or this rank's part of them -> of each layer [B, S, this rank's part of its outputs].
        """
        if not self.sequence_parallel:
            x = self.enter(x)
            return [linear(x) for linear in linears]
        return sequence_parallel.gather_through(x, linears, self._ranks, self.gathers_again)

    def leave(self, terms: Tensor) -> Tensor:
        """Hidden states out of a region, after a weight whose input axis is cut: summed over ranks.

        terms [B, S, H] -> the sum, all tokens of it or this rank's part.
        """
        return sequence_parallel.reduce_scatter(terms, self._ranks) if self.sequence_parallel else self.sum(terms)

    def own_tokens(self, whole: Tensor) -> Tensor:
        """This rank's part of a tensor of all tokens [B, S, ...], as it is held between regions."""
        return sequence_parallel.part_of_tokens(whole, self.rank, self.size) if self.sequence_parallel else whole

    def all_tokens(self, x: Tensor) -> Tensor:
        """The other way, for what every rank computes alike: [B, S, H]."""
        return sequence_parallel.collect(x, self._ranks) if self.sequence_parallel else x

    def summed(self, gradient: Tensor) -> Tensor:
        """The sum over ranks of the parts of a gradient."""
        total = gradient.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def shard(self, spec: ParameterSpec, tensor: Tensor) -> Tensor:
        """This rank's part of a logical tensor (`spec.shape`), vocabulary padding added as zeros."""
        return shard(spec, tensor, self.rank, self.size)

    @contextmanager
    def sharded_randomness(self, device: torch.device) -> Iterator[None]:
        """Inside, random numbers differ between tensor-parallel ranks (for activations that are cut); outside they are
        the same on all (for activations that are replicated).

        The inner stream is seeded from the outer one, so it has no state to save, and activation checkpointing replays
        it. Works on the default generator of any device.
        """
        if self.size == 1:
            yield
            return
        with own_draws.drawing_from(own_draws.own_seed(self.rank), device):
            yield

    @property
    def draws_own(self) -> bool:
        """Whether random numbers inside a region have to be made this rank's own, as its heads are. Under sequence
        parallelism all that a rank draws is."""
        return self.size > 1 and not self.sequence_parallel

    def draw_own(self, function: own_draws.Draws, *arguments) -> Tensor:
        """function(tensor, ...) with this rank's own random numbers, in a compiled block also."""
        if not self.draws_own:
            return function(*arguments)
        if torch.compiler.is_compiling():
            return own_draws.in_graph(function, arguments, self.rank)
        with self.sharded_randomness(arguments[0].device):
            return function(*arguments)


def shard(spec: ParameterSpec, tensor: Tensor, rank: int, size: int) -> Tensor:
    """Part `rank` of `size` of a logical tensor, with vocabulary padding added as zeros."""
    assert tuple(tensor.shape) == spec.shape, f"{spec.name}: {tuple(tensor.shape)} is not {spec.shape}"
    if spec.padded_shape != spec.shape:
        padding = tensor.new_zeros(spec.padded_shape[0] - spec.shape[0], *spec.shape[1:])
        tensor = torch.cat([tensor, padding])
    axis = spec.tensor_parallel_axis
    return tensor if axis is None or size == 1 else tensor.chunk(size, dim=axis)[rank]


def unshard(spec: ParameterSpec, shards: list[Tensor]) -> Tensor:
    """The logical tensor from the parts of all tensor-parallel ranks (one part where the parameter is not cut)."""
    axis = spec.tensor_parallel_axis
    tensor = shards[0] if axis is None else torch.cat(shards, dim=axis)
    return tensor[: spec.shape[0]]
