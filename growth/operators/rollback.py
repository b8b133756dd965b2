"""What operators that go back to a saved state have in common: the shape stays, and the state has to have it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from growth.change import ShapeChange
from growth.operators.base import Inputs, Operator
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.parameters import ParameterSpec, parameter_table


class GoingBack(Operator):
    changes: ClassVar[tuple[str, ...]] = ()

    checkpoint: str

    def target(self, source: BertConfig, wanted: Mapping[str, Any]) -> BertConfig:
        return source

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        config, fetch_saved = inputs.saved(self.checkpoint)
        self.check(config, source)
        return ShapeChange(source, target, lambda spec, fetch: self.record(spec, fetch, fetch_saved))

    def record(self, spec: ParameterSpec, fetch: Fetch, fetch_saved: Fetch) -> Record:
        """One parameter, from the state that goes on and from the saved one."""
        raise NotImplementedError

    def check(self, saved: BertConfig, source: BertConfig) -> None:
        """Raises UserError unless a saved state has the parameters of the one that goes on."""
        shapes = [{name: spec.shape for name, spec in parameter_table(each).items()} for each in (saved, source)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"grow {self.name}: {self.checkpoint} holds {saved.summary()}, the state here is {source.summary()}; "
                "go back to the same shape first"
            )
