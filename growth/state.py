"""The logical training state: for every parameter its weight, both moments and its step, unsharded."""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field

from model.config import BertConfig
from model.initialize import initial_weight
from model.lazy import Tensor, torch
from model.parameters import parameter_table

MOMENTS = ("exp_avg", "exp_avg_sq")
"""The two moments of AdamW, LAMB, LANS and StableAdamW. Muon keeps only the first of its matrices."""

TENSORS = ("weight", *MOMENTS)
"""What is kept for each parameter, all fp32: the master weight and the moments."""


@dataclass(frozen=True)
class Record:
    """One parameter's training state. All tensors fp32 in the logical shape `spec.shape`."""

    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor | None
    """None: its optimizer keeps one moment."""
    step: int = 0
    """Optimizer steps this tensor has taken: decides its bias correction."""

    @classmethod
    def fresh(cls, weight: Tensor) -> "Record":
        """A parameter no optimizer has touched."""
        return cls(weight, torch.zeros_like(weight), torch.zeros_like(weight))

    @classmethod
    def of(cls, tensors: Iterable[Tensor], step: int) -> "Record":
        """From the weight and its moments, as `tensors()` gives them."""
        weight, exp_avg, *second = tensors
        return cls(weight, exp_avg, second[0] if second else None, step)

    def tensors(self) -> list[Tensor]:
        """Those that are kept, in the order of TENSORS."""
        return [tensor for tensor in (self.weight, self.exp_avg, self.exp_avg_sq) if tensor is not None]

    def without_moments(self) -> "Record":
        return Record.of((self.weight, *map(torch.zeros_like, self.tensors()[1:])), step=0)


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
    with_one_moment: Set[str] = frozenset()
    """The parameters whose records have no exp_avg_sq, known on all ranks."""

    def kinds(self, name: str) -> tuple[str, ...]:
        """The names of the tensors in a record."""
        return kinds_of(name, self.with_one_moment)

    def nbytes(self) -> int:
        return sum(tensor.nbytes for record in self.records.values() for tensor in record.tensors())

    def nbytes_of_all(self) -> int:
        """Of the records of all ranks."""
        table = parameter_table(self.config)
        return sum(torch.float32.itemsize * table[name].numel * len(self.kinds(name)) for name in self.owners)


def kinds_of(name: str, with_one_moment: Set[str]) -> tuple[str, ...]:
    """The names of the tensors in a parameter's record: TENSORS, or without the second moment."""
    return TENSORS[:2] if name in with_one_moment else TENSORS


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
