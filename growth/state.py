"""The logical training state: for every parameter its weight, both moments and its step, unsharded."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from model.config import BertConfig
from model.initialize import initial_weight
from model.lazy import Tensor, torch
from model.parameters import parameter_table

TENSORS = ("weight", "exp_avg", "exp_avg_sq")
"""What is kept for each parameter, all fp32: the master weight and the two moments of Adam, LAMB and LANS."""


@dataclass(frozen=True)
class Record:
    """One parameter's training state. All tensors fp32 in the logical shape `spec.shape`."""

    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: int = 0
    """Optimizer steps this tensor has taken: decides its bias correction."""

    @classmethod
    def fresh(cls, weight: Tensor) -> "Record":
        """A parameter no optimizer has touched."""
        return cls(weight, torch.zeros_like(weight), torch.zeros_like(weight))

    @classmethod
    def of(cls, tensors: Iterable[Tensor], step: int) -> "Record":
        """From the weight and both moments, as `tensors()` gives them."""
        weight, exp_avg, exp_avg_sq = tensors
        return cls(weight, exp_avg, exp_avg_sq, step)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.weight, self.exp_avg, self.exp_avg_sq

    def without_moments(self) -> "Record":
        return Record.fresh(self.weight)


Fetch = Callable[[str], Record]
"""Gives the record of a parameter by name. Where state is spread over ranks, every rank must ask in the same order."""


@dataclass
class TrainingState:
    """The part of the state that one rank owns, and who owns the rest."""

    config: BertConfig
    owners: Mapping[str, int]
    """Rank that holds each parameter's record."""
    steps: Mapping[str, int]
    """Step of every parameter, known on all ranks."""
    records: dict[str, Record] = field(default_factory=dict)
    """The records this rank owns."""

    def nbytes(self) -> int:
        return sum(tensor.nbytes for record in self.records.values() for tensor in record.tensors())


def assign_owners(config: BertConfig, num_ranks: int) -> dict[str, int]:
    """Which rank owns each parameter: largest first, each to the rank with the fewest bytes so far."""
    load = [0] * num_ranks
    owners = {}
    for spec in sorted(parameter_table(config).values(), key=lambda spec: (-spec.numel, spec.name)):
        owners[spec.name] = rank = load.index(min(load))
        load[rank] += spec.numel
    return {name: owners[name] for name in parameter_table(config)}


def fresh_state(config: BertConfig, seed: int, rank: int = 0, num_ranks: int = 1) -> TrainingState:
    """The state before the first step, spread over the ranks. Every tensor depends only on (seed, name, shape)."""
    owners = assign_owners(config, num_ranks)
    mine = [name for name, owner in owners.items() if owner == rank]
    records = {name: Record.fresh(initial_weight(config, name, seed)) for name in mine}
    return TrainingState(config, owners, dict.fromkeys(owners, 0), records)
