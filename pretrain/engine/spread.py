"""Records of a state that is spread over the ranks: for all ranks at once, or for the owners of a new state's records.

A rule of a change asks for records while it runs. So it runs on meta tensors first, which says what it asks for. Then
each record goes straight to the ranks that need it, many in one message, and nobody asks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from growth.change import ShapeChange
from growth.state import Fetch, Record, TrainingState, assign_owners, kinds_of
from model.errors import UserError
from model.parameters import parameter_table
from pretrain.engine.distributed import device
from pretrain.engine.exits import Stop
from pretrain.engine.gather import BATCH, batches
from pretrain.engine.host_copy import HOST, moved

Source = tuple[int, str]
"""A record: the number of its state in a plan, and its name."""

_answer: Callable[[TrainingState, str], Record] | None = None
"""Stands in for the messages of `fetch_from` while a rule runs: those below ask for what it needs beforehand."""


def fetch_from(state: TrainingState) -> Fetch:
    """Returns any record on every rank, by broadcast from its owner. Collective: all ranks ask for the same names."""
    table = parameter_table(state.config)
    rank = dist.get_rank()

    def fetch(name: str) -> Record:
        if _answer is not None:
            return _answer(state, name)
        spec, owner = table[name], state.owners[name]
        if dist.get_world_size() == 1:
            return state.records[name]
        if rank == owner:
            message = moved(_flat(state.records[name]), device())
        else:
            message = torch.empty(len(state.kinds(name)) * spec.numel, device=device())
        dist.broadcast(message, owner)
        return _record(moved(message, HOST), spec.shape, state, name)

    return fetch


@dataclass
class Plan:
    """What each parameter of a new state is made of. The same on every rank."""

    change: ShapeChange
    states: list[TrainingState]
    """The state that the change starts from, then those that its rules read besides."""
    owners: dict[str, int]
    """Of the new records."""
    steps: dict[str, int] = field(default_factory=dict)
    """Of the new records."""
    sources: dict[str, list[Source]] = field(default_factory=dict)
    _last_use: dict[Source, str] = field(default_factory=dict)
    """The parameter, in model order, that needs a source last."""
    with_one_moment: set[str] = field(default_factory=set)
    """The new records without exp_avg_sq."""

    def kinds(self, name: str) -> tuple[str, ...]:
        """The names of the tensors in a new record."""
        return kinds_of(name, self.with_one_moment)

    @classmethod
    def of(cls, change: ShapeChange, state: TrainingState) -> "Plan":
        """Touches no tensor's data. Raises Stop on all ranks where an operator gives up."""
        plan = cls(change, [state], assign_owners(change.target, dist.get_world_size()))
        for name in parameter_table(change.target):
            asked: list[Source] = []

            def note(of: TrainingState, source: str, asked: list[Source] = asked) -> Record:
                asked.append((plan._number(of), source))
                empty = torch.empty(parameter_table(of.config)[source].shape, device="meta")
                return Record.of([empty for _ in of.kinds(source)], of.steps[source])

            try:
                outline = plan._run(name, note)
            except UserError as fault:
                raise Stop(str(fault)) from fault  # every rank makes the same plan
            plan.steps[name] = outline.step
            if outline.exp_avg_sq is None:
                plan.with_one_moment.add(name)
            plan.sources[name] = list(dict.fromkeys(asked))
        return plan

    def numels(self) -> dict[str, int]:
        """Elements of each parameter, or of all that its record is made of if they are more."""
        table = parameter_table(self.change.target)
        return {
            name: max(table[name].numel, sum(self._shape(source).numel() for source in sources))
            for name, sources in self.sources.items()
        }

    def records(self, names: Sequence[str]) -> dict[str, Record]:
        """Those of `names` that this rank owns, computed from what their sources' owners send. Collective."""
        found = self._deliver(names)
        rank = dist.get_rank()
        return {
            name: self._run(name, lambda of, source: found[self._number(of), source])
            for name in names
            if self.owners[name] == rank
        }

    def drop(self, names: Sequence[str]) -> None:
        """Forgets this rank's records that only `names`, and parameters before them, were made of."""
        if not self._last_use:
            self._last_use.update({source: name for name, sources in self.sources.items() for source in sources})
        for name in names:
            for number, source in self.sources[name]:
                if self._last_use[number, source] == name:
                    self.states[number].records.pop(source, None)

    def _run(self, name: str, answer: Callable[[TrainingState, str], Record]) -> Record:
        with _answered_by(answer):
            return self.change.record(name, lambda source: answer(self.states[0], source))

    def _number(self, state: TrainingState) -> int:
        number = next((number for number, known in enumerate(self.states) if known is state), None)
        if number is None:
            number = len(self.states)
            self.states.append(state)
        return number

    def _deliver(self, names: Sequence[str]) -> dict[Source, Record]:
        """The sources of the records that this rank owns of `names`."""
        rank, num_ranks = dist.get_rank(), dist.get_world_size()
        wanted: dict[Source, None] = {}
        outgoing: list[dict[Source, None]] = [{} for _ in range(num_ranks)]
        for name in names:
            for source in self.sources[name]:
                if self.owners[name] == rank:
                    wanted[source] = None
                if self._owner(source) == rank:
                    outgoing[self.owners[name]][source] = None
        found = {source: self._own(source) for source in wanted if self._owner(source) == rank}
        if num_ranks == 1:
            return found
        incoming: list[list[Source]] = [[] for _ in range(num_ranks)]
        for source in wanted:
            if source not in found:
                incoming[self._owner(source)].append(source)
        outgoing[rank] = {}
        numel_to, numel_from = (
            [sum(self._numel(source) for source in sources) for sources in each] for each in (outgoing, incoming)
        )
        sent = (tensor for sources in outgoing for source in sources for tensor in self._own(source).tensors())
        outbox = moved(torch.cat([torch.empty(0), *(tensor.reshape(-1) for tensor in sent)]), device())
        inbox = torch.empty(sum(numel_from), device=device())
        dist.all_to_all_single(inbox, outbox, numel_from, numel_to)
        rest = moved(inbox, HOST)
        for sources in incoming:
            for source in sources:
                numel = self._numel(source)
                flat, rest = rest.split([numel, rest.numel() - numel])
                found[source] = _record(flat, self._shape(source), self.states[source[0]], source[1])
        return found

    def _owner(self, source: Source) -> int:
        return self.states[source[0]].owners[source[1]]

    def _own(self, source: Source) -> Record:
        return self.states[source[0]].records[source[1]]

    def _numel(self, source: Source) -> int:
        """Of all its tensors together."""
        return len(self.states[source[0]].kinds(source[1])) * self._shape(source).numel()

    def _shape(self, source: Source) -> torch.Size:
        return torch.Size(parameter_table(self.states[source[0]].config)[source[1]].shape)


def changed_state(state: TrainingState, change: ShapeChange) -> TrainingState:
    """The state after a change, each record on its owner. Collective."""
    plan, table = Plan.of(change, state), parameter_table(change.target)
    after = TrainingState(change.target, plan.owners, plan.steps, with_one_moment=plan.with_one_moment)
    for names in batches(table, plan.numels(), BATCH):
        for name, record in plan.records(names).items():
            after.records[name] = Record.of((tensor.contiguous() for tensor in record.tensors()), record.step)
    return after


@contextmanager
def _answered_by(answer: Callable[[TrainingState, str], Record]) -> Iterator[None]:
    global _answer
    _answer = answer
    try:
        yield
    finally:
        _answer = None


def _flat(record: Record) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in record.tensors()])


def _record(flat: Tensor, shape: tuple[int, ...], state: TrainingState, name: str) -> Record:
    return Record.of((tensor.view(shape) for tensor in flat.chunk(len(state.kinds(name)))), state.steps[name])
