"""What operators that read a saved state have in common: the shape stays, and the saved state must have it too."""

from typing import ClassVar

from growth.change import ShapeChange
from growth.operators.base import Inputs, Operator
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.parameters import ParameterSpec, parameter_table

INITIAL = "initial"
"""The name of a run's state before its first step."""


class SavedStateOperator(Operator):
    changes: ClassVar[tuple[str, ...]] = ()

    checkpoint: str

    @property
    def tells_copies_apart(self) -> bool:
        return True

    @property
    def saved_states_read(self) -> tuple[str, ...]:
        return (self.checkpoint,)

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        return source

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        config, fetch_saved = inputs.saved(self.checkpoint)
        self.check_saved_state(self.checkpoint, config, source)
        return ShapeChange(source, target, lambda spec, fetch: self.record(spec, fetch, fetch_saved))

    def record(self, spec: ParameterSpec, fetch: Fetch, fetch_saved: Fetch) -> Record:
        """One parameter of the result, from the current state and the saved one."""
        raise NotImplementedError

    def check_saved_state(self, name: str, saved: BertConfig, source: BertConfig) -> None:
        shapes = [{name: spec.shape for name, spec in parameter_table(each).items()} for each in (saved, source)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"grow {self.name}: {name} holds {saved.summary()}, the state here is {source.summary()}; "
                "return to the same shape first"
            )
