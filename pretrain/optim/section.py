"""The section `optimizer` of a recipe: the options of all optimizers side by side, checked against the chosen one."""

from typing import ClassVar, Literal

from pydantic import model_validator

from model.errors import UserError
from model.registry import takes
from pretrain.optim import OPTIMIZERS
from pretrain.optim.options import OptimizerOptions
from pretrain.settings.joined import join, joined, keys_of

_BY_NAME = {optimizer.name: optimizer for optimizer in OPTIMIZERS}
_KEYS = {"name": (Literal[tuple(_BY_NAME)], OPTIMIZERS[0].name), **keys_of(OPTIMIZERS)}


class Optimizer(joined(_KEYS)):  # type: ignore[misc]
    """Options that are not the chosen optimizer's own keep their defaults."""

    declared_in: ClassVar = OPTIMIZERS
    """The sections whose keys it has."""

    @model_validator(mode="after")
    def _options_fit_the_name(self) -> "Optimizer":
        for option, field in type(self).model_fields.items():
            owners = [name for name, optimizer in _BY_NAME.items() if option in optimizer.model_fields]
            if option != "name" and self.name not in owners and getattr(self, option) != field.default:
                raise UserError(f"{option} is for {' and '.join(owners)}, not for {self.name}; remove it")
        self.chosen.check()
        return self

    @property
    def chosen(self) -> OptimizerOptions:
        """The options of the chosen optimizer alone."""
        return self.only(_BY_NAME[self.name])

    def at_rate_of(self, other: "Optimizer") -> "Optimizer":
        """This one with the peak learning rate of another, which is all that may differ without a new engine."""
        return self.model_copy(update={"lr": other.lr})


@takes(OptimizerOptions)
def _add(optimizer: type[OptimizerOptions]) -> None:
    if optimizer.name in _BY_NAME:
        raise UserError(f"an optimizer {optimizer.name} is there already; give {optimizer.__name__} another name")
    taken = [key for key in optimizer.__annotations__ if key in Optimizer.model_fields and key != "name"]
    if taken:
        raise UserError(f"{optimizer.__name__}.{taken[0]}: optimizer.{taken[0]} is there already; give it another name")
    _BY_NAME[optimizer.name] = optimizer
    new = {key: value for key, value in keys_of([optimizer]).items() if key not in Optimizer.model_fields}
    join(Optimizer, {"name": (Literal[tuple(_BY_NAME)], OPTIMIZERS[0].name), **new})
