"""The base class of all operators: a checked set of options that leads from one shape to another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from growth.change import MomentPolicy, ShapeChange
from growth.learned_maps import LearnedMaps, Learning
from growth.moments import MomentRule, of_gradients
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.lazy import Tensor
from model.parameter_spec import ParameterSpec

Correlation = Mapping[str, float]
"""For each parameter of a shared block, the mean correlation between the gradients of its uses."""


Ticket = dict[tuple[str, int], tuple[bool, ...]]
"""Which units stay, by axis (`heads`, `ffn`) and block."""


def _no_records(name: str) -> Record:
    raise AssertionError(f"{name} was requested without a state")


def _no_correlation(source: BertConfig, shared: BertConfig, fetch: Fetch) -> Correlation:
    raise UserError("gradients cannot be measured here; set the option correlation to a number from 0 to 1")


def no_rows(maps: LearnedMaps, learning: Learning, fetch: Fetch) -> LearnedMaps:
    raise UserError("maps are learned on the rows of a run; let a stage of one do it, or set the option steps to 0")


def _no_saved_state(path: str) -> tuple[BertConfig, Fetch]:
    raise UserError(f"the saved state {path} cannot be opened here")


@dataclass(frozen=True)
class Inputs:
    """What an operator may use to decide its change. Calls are collective if the state is spread over ranks."""

    fetch: Fetch = _no_records
    """Records of the shape the operator starts from."""
    correlation: Callable[[BertConfig, BertConfig, Fetch], Correlation] = _no_correlation
    """(shape of the state, that shape with the sharing to measure, the state) -> correlations on a probe batch."""
    saved: Callable[[str], tuple[BertConfig, Fetch]] = _no_saved_state
    """Shape and state of a checkpoint, by name or path."""
    moments: MomentRule = of_gradients
    """How the optimizer's moments follow the change."""
    seed: int = 0
    """The run's, for weights that are drawn."""
    learn: Callable[[LearnedMaps, Learning, Fetch], LearnedMaps] = no_rows
    """(maps as they are drawn, how to learn them, the state) -> the maps after these steps on the run's corpus."""


class Operator(BaseModel):
    """One kind of shape change. Its fields are its options in a recipe: `grow: {unshare: {moments: copy}}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    changes: ClassVar[tuple[str, ...]]
    """Fields of BertConfig that the operator can change."""

    finishes: ClassVar[bool] = False
    """Whether it ends what an earlier operator has left unfinished (`Shape.unfinished`). All others wait for that."""

    takes_no_layers: ClassVar[bool] = False
    """Whether it can begin with a model of 0 layers. All others wait until there are some."""

    copies_units: ClassVar[bool] = False
    """Whether some of its new units start as copies of old ones."""

    adds_units: ClassVar[bool] = False
    """Whether it adds units to axes and leaves the old ones where they are: it then takes `moments: new_units`."""

    moments: MomentPolicy = "transform"

    @model_validator(mode="after")
    def _takes_its_policy(self) -> "Operator":
        if self.moments == "new_units" and not self.adds_units:
            raise UserError("moments new_units is for widen, tile_ffn and ligo; choose transform, copy or reset")
        return self

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        """The shape that the operator leads to, with the wanted values of the fields it changes.

        Raises UserError if it cannot get there from `source`.
        """
        raise NotImplementedError

    def copied_units(self, source: BertConfig, target: BertConfig) -> frozenset[tuple[str, int | None]]:
        """The axes, each with its block (None: outside the blocks), on which its new units start as copies."""
        return frozenset()

    @property
    def tells_copies_apart(self) -> bool:
        """Whether training separates units that were copies of one another, its own or those of operators before."""
        return False

    @property
    def saved_states_read(self) -> tuple[str, ...]:
        """The saved states that it reads: names that stages keep, or paths."""
        return ()

    @property
    def learning_steps(self) -> int:
        """Steps over the stage's rows in which it learns its change. Each costs a step of the model it leads to without
        the optimizer's part, and `learning_flops`."""
        return 0

    def learning_flops(self, source: BertConfig, target: BertConfig) -> int:
        """Of one such step, what comes on top of the model's."""
        return 0

    @property
    def prunes_by_coefficients(self) -> bool:
        """Whether the learned slimming coefficients decide which units stay."""
        return False

    def ticket(self, source: BertConfig, wanted: PartialShape, coefficients: Mapping[str, Tensor]) -> Ticket:
        """The units that would stay with these slimming coefficients, by name; empty if others decide."""
        return {}

    def gives_each_layer_its_own_block(self, wanted: PartialShape) -> bool:
        """Whether no layers share a block after it, however they were shared before."""
        return False

    def is_done_by_splits(self, source: BertConfig) -> bool:
        """Whether a run that has split shared blocks on its way to `source` has left this operator nothing to do."""
        return False

    def check_layout(self, target: BertConfig, tensor_parallel: int) -> None:
        """Raises UserError if it may lead to widths that the tensor-parallel ranks cannot divide."""

    def check_saved_state(self, name: str, saved: BertConfig, source: BertConfig) -> None:
        """Raises UserError unless it can use a saved state of shape `saved` on a model of shape `source`."""

    def settled(self, source: BertConfig, wanted: PartialShape, inputs: Inputs) -> PartialShape:
        """The wanted values, completed from the state by an operator that leaves some to it. Collective."""
        return wanted

    def change(self, source: BertConfig, target: BertConfig, inputs: Inputs = Inputs()) -> ShapeChange:
        """The change from `source` to a shape that `target()` returned, with this operator's moment policy."""
        change = _naming(self.name, self.rule(source, target, inputs))
        if self.moments == "reset":
            return change.with_moments_reset()
        return inputs.moments(change, inputs.fetch) if self.moments == "transform" else change

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        raise NotImplementedError


def _naming(operator: str, change: ShapeChange) -> ShapeChange:
    """The change. Where it stumbles over a second moment that Muon does not keep, a UserError says so."""

    def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
        single: list[str] = []

        def noted(name: str) -> Record:
            record = fetch(name)
            if record.exp_avg_sq is None:
                single.append(name)
            return record

        try:
            return change.record(spec.name, noted)
        except UserError:
            raise
        except (AttributeError, TypeError, ValueError, IndexError) as fault:
            if not single:
                raise
            raise UserError(
                f"grow {operator} cannot make {spec.name}: {single[0]} has no second moment in a run with muon, its "
                f"exp_avg_sq is None ({fault}); let the operator do without it, or grow before the stage with muon"
            ) from fault

    return ShapeChange(change.source, change.target, rule)
