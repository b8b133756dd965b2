"""New units of a change of width: which entries of each parameter are theirs, and how long they have been trained.

The policy `moments: new_units` starts them without any state, while old units keep theirs. (SPARKLING, arXiv
2602.02472: copies that carry the state of what they copy, or that all start over together, stay too much alike.) An
entry is new where a new unit lies on any of its axes. Adam corrects its moments for their start from zero, so it needs
the number of steps since then, not that of its tensor. For all new entries of a run it is the same number, and one
tensor has one step count; so the run keeps `NewUnits`, for as long as the stage lasts.

After that, and before any other change, `settled` brings the moments of new entries to the count of their tensors:

    exp_avg' = exp_avg (1 - beta1^t) / (1 - beta1^n)         exp_avg_sq' = exp_avg_sq (1 - beta2^t) / (1 - beta2^n)

for n steps of the new entries and t of the tensor: the corrected moments stay (as in carry.py). Muon corrects nothing:
the momentum of its matrices stays as it is.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from growth.carry import reached
from growth.change import ShapeChange, identity
from growth.state import Fetch, Record
from model.config import BertConfig
from model.lazy import Tensor, torch
from model.parameter_spec import ParameterSpec


@dataclass(frozen=True)
class NewUnits:
    old_sizes: dict[tuple[str, int | None], int]
    """By axis and block (None: outside the blocks): units from this number on are new."""
    since: int
    """The step of the run after which they came."""

    def where(self, spec: ParameterSpec) -> Tensor | None:
        """Which entries of a parameter are new, bool [spec.shape]; None: none of them."""
        olds = [self._old_size(axis.name, spec.block) for axis in spec.axes]
        if all(old is None for old in olds):
            return None
        found = torch.zeros(spec.shape, dtype=torch.bool)
        for position, (axis, old) in enumerate(zip(spec.axes, olds, strict=True)):
            if old is not None:
                found.narrow(position, old, axis.size - old).fill_(True)
        return found

    def settled(
        self, config: BertConfig, step: int, decay_rates: Callable[[ParameterSpec], tuple[float, ...]]
    ) -> ShapeChange:
        """The state of shape `config` after step `step` of the run, with one step count for each tensor."""
        taken = step - self.since

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            record, new = fetch(spec.name), self.where(spec)
            if new is None or record.exp_avg_sq is None or not taken:
                return record
            factors = [reached(rate, record.step) / reached(rate, taken) for rate in decay_rates(spec)]
            new = new.to(record.weight.device)
            moments = zip(record.tensors()[1:], factors, strict=True)
            scaled = (torch.where(new, moment * factor, moment) for moment, factor in moments)
            return Record.of((record.weight, *scaled), record.step)

        return ShapeChange(config, identity(config).target, rule)

    def _old_size(self, axis: str, block: int | None) -> int | None:
        return self.old_sizes.get((axis, None), self.old_sizes.get((axis, block)))

    def to_json(self) -> dict:
        return {"since": self.since, "old_sizes": [[*place, old] for place, old in self.old_sizes.items()]}

    @classmethod
    def from_json(cls, values: dict) -> "NewUnits":
        return cls({(axis, block): old for axis, block, old in values["old_sizes"]}, values["since"])

    @classmethod
    def between(cls, widths: Iterable[tuple[str, int | None, int, int]], since: int) -> "NewUnits":
        """widths: (axis, block, old size, new size) of those that grew, as `changed_widths` gives them."""
        return cls({(axis, block): old for axis, block, old, _ in widths}, since)
