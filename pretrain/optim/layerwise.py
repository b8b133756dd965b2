"""What LAMB, LANS, Muon and StableAdamW have in common: they need whole parameters, and an engine cuts parameters up.

ZeRO hands an optimizer flat tensors that hold parts of many parameters, and calls `step` once for each of them; tensor
parallelism cuts parameters again. So a step is collected until all of it has arrived. Then the squared norms of all
parts go into one packed sum over the ranks (Muon: the parts travel to where a matrix is put together), and all weights
are written. Where the engine has already passed a weight on, it is asked to do so again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from growth.state import MOMENTS
from model.parallel.division import Division
from pretrain.optim.new_units import NewEntries


@dataclass(frozen=True)
class Segment:
    """A part of one parameter inside a tensor that the optimizer steps on."""

    parameter: int
    """Which of the model's parameters: the same number on every rank."""
    start: int
    numel: int
    counts: bool = True
    """Whether its norms are counted on this rank; of equal copies on several ranks, one counts."""


@dataclass(frozen=True)
class Partition:
    """How an engine has laid the parameters out over tensors, calls of `step` and ranks."""

    segments: Mapping[Tensor, list[Segment]]
    numels: Sequence[int]
    """Elements of each of the model's parameters, by number, without the padding of the vocabulary."""
    num_calls: int = 1
    """Calls of `step` that make up one step."""
    group: dist.ProcessGroup | None = None
    """The ranks that hold parts; None: this rank holds everything."""
    device: torch.device | str = "cpu"
    """Where the group's collectives run."""
    publish: Callable[[int], None] = lambda call: None
    """Passes the weights that came with a call on to the model once more."""
    division: Division | None = None
    """Which rank holds which elements of the trained parameters, where an engine knows. The order of its table is that
    of the numbers."""


@dataclass(frozen=True)
class Part:
    """A segment with all that belongs to it: equally long 1-D views, and numbers of its group."""

    segment: Segment
    group: dict[str, Any]
    step: int
    gradient: Tensor
    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor | None = None
    """None where the group keeps one moment."""
    new: Tensor | None = None
    """Which elements are those of new units that have begun without state; None: none."""

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert self.exp_avg_sq is not None
        return self.gradient, self.weight, self.exp_avg, self.exp_avg_sq


class LayerwiseOptimizer(torch.optim.Optimizer):
    """Base of optimizers that need a whole parameter for its update, or norms of it.

    Steps on whole parameters; after `attach`, on parts of them. The gradients are used as scratch memory.
    State of each tensor: exp_avg, exp_avg_sq (as the weight) and step, as in torch's Adam; of the moments those that
    its group names under `moments`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        adapt: bool = True,
        bias_correction: bool = True,
        compiled: bool = True,
    ):
        """All but `compiled` may differ between parameter groups.

        adapt: False takes Adam's step, without the norms, as LayerNorms and biases usually do.
        compiled: use torch.compile on a CPU, where there is a compiler and enough to do.
        """
        super().__init__(
            params,
            dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, adapt=adapt, bias_correction=bias_correction),
        )
        self.compiled = compiled
        self.new_entries: NewEntries | None = None
        self._partition: Partition | None = None
        self._arrived: list[tuple[Tensor, Tensor, dict[str, Any]]] = []  # weight, gradient, group
        self._num_calls = 0

    def attach(self, partition: Partition) -> None:
        """From now on the tensors stepped on hold the segments of `partition`."""
        self._partition = partition

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # there is never a closure
        assert closure is None, "DeepSpeed passes none, and a second evaluation has no place here"
        partition = self._partition or _whole_parameters(self.param_groups)
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    self._arrived.append((tensor, tensor.grad, group))
        self._num_calls += 1
        if self._num_calls < partition.num_calls:
            return
        arrived, num_calls = self._arrived, self._num_calls
        self._arrived, self._num_calls = [], 0
        parts = [part for piece in arrived for part in self._parts(partition, *piece)]
        self.update(parts, partition)
        for call in range(num_calls - 1):  # the engine itself sends the weights of the last call
            partition.publish(call)

    def update(self, parts: list[Part], partition: Partition) -> None:
        """One step on all parts, in place. Collective over the partition's ranks."""
        raise NotImplementedError

    def _parts(self, partition: Partition, tensor: Tensor, gradient: Tensor, group: dict[str, Any]) -> Iterator[Part]:
        state, moments = self.state[tensor], group.get("moments", MOMENTS)
        if not state:
            state["step"] = torch.zeros(())
            state.update({moment: torch.zeros_like(tensor) for moment in moments})
        state["step"] += 1
        step = int(state["step"].item())
        new = self.new_entries.of(tensor) if self.new_entries else None
        flat = [t.detach().reshape(-1) for t in (gradient, tensor, *(state[moment] for moment in moments))]
        for segment in partition.segments[tensor]:
            part = Part(segment, group, step, *(t.narrow(0, segment.start, segment.numel) for t in flat))
            yield part if new is None else replace(part, new=new.narrow(0, segment.start, segment.numel))


def whole_norms(partition: Partition, parts: list[Part], squares: Tensor) -> list[list[float]]:
    """Norms of whole parameters from squared norms of parts, by one collective: norms[parameter][kind].

    squares: [kinds, parts] float64.
    """
    parameter = torch.tensor([part.segment.parameter for part in parts], dtype=torch.int64, device=squares.device)
    counts = torch.tensor([part.segment.counts for part in parts], dtype=torch.bool, device=squares.device)
    packed = squares.new_zeros(len(squares), len(partition.numels))
    packed.index_add_(1, parameter[counts], squares[:, counts])
    if partition.group is not None:
        packed = packed.to(partition.device)
        dist.all_reduce(packed, group=partition.group)
    return packed.sqrt().T.tolist()


def _whole_parameters(groups: list[dict[str, Any]]) -> Partition:
    tensors = [tensor for group in groups for tensor in group["params"]]
    return Partition(
        {tensor: [Segment(index, 0, tensor.numel())] for index, tensor in enumerate(tensors)},
        [tensor.numel() for tensor in tensors],
    )
