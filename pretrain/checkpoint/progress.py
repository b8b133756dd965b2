"""How far a run has come: everything the next step depends on, apart from the tensors."""

from dataclasses import asdict, dataclass, field
from typing import Any

from growth.new_units import NewUnits
from growth.partial_shape import PartialShape
from model.variants.token_dropping.table import LossTable
from pretrain.data import DataPosition
from pretrain.data.negatives import ANYWHERE


@dataclass(frozen=True)
class Decision:
    """What a run has decided about one of its stages while it ran.

    An end alone: the stage ended there. An end and a shape: the stage was divided there, and its second part has that
    shape. A shape alone: what the stage turned out to have, where its operators left that to the state.
    """

    stage: int
    """Index in the run as it was when it decided."""
    end: float | None = None
    """In ticks of the run's clock."""
    shape: PartialShape = field(default_factory=PartialShape)
    """Fields of the model."""

    @property
    def shape_in_words(self) -> str:
        return ", ".join(f"{field} {_in_words(value)}" for field, value in self.shape.items())

    def to_json(self) -> dict[str, Any]:
        return {"stage": self.stage, "end": self.end, "shape": dict(self.shape)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Decision":
        return cls(**{**values, "shape": PartialShape(values["shape"])})


@dataclass(frozen=True)
class Before:
    """What led to the state that a run continues (`start_with: state`): one run, or several one after the other."""

    recipes: list[dict[str, Any]]
    """Of each, as JSON, the first one's first."""
    steps: int
    num_tokens: int
    flops: float
    train_seconds: float
    seconds: float
    """With changes of shape, as `device_seconds`."""
    device_seconds: float
    """Of all ranks."""
    was_grown: bool
    """Whether a model was grown in between, by no run."""


@dataclass
class Progress:
    step: int = 0
    """Optimizer steps taken."""
    position: DataPosition = field(default_factory=DataPosition)
    num_tokens: int = 0
    """Tokens read, padding not counted."""
    flops: float = 0.0
    train_seconds: float = 0.0
    """Time in training steps, without validation, growth and checkpoints."""
    device_seconds: float = 0.0
    """What the devices of one rank worked for it: on a CPU processor seconds, which other users of the machine do not
    stretch; elsewhere the same as train_seconds."""
    growth_seconds: float = 0.0
    """Of changes of shape."""
    stage: int = 0
    """Index of the stage whose shape the state has: at a change of shape, that of the stage before it."""
    masked_since: int = 0
    """The step at which the shape's new units, if some fade in, came into the model."""
    new_units: NewUnits | None = None
    """The stage's new units that have begun without state, and when."""
    token_losses: LossTable | None = None
    """By which token dropping keeps tokens; None before the first step of a stage that drops any."""
    before: Before | None = None
    """None for a run that continues no other's state. Counted in nothing else here."""
    decisions: list[Decision] = field(default_factory=list)
    """What the run has decided about its stages."""
    loss_scaler: dict[str, float] = field(default_factory=dict)
    attention_kernel: str | None = None
    """The one of `model.attention_kernels` that the run was begun with; None: it prefers none."""
    kernel_for_runs: str | None = None
    """The same for rows with runs of tokens."""

    def to_json(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("new_units", "token_losses")}
        left_out = {*own, *(["before"] if self.before is None else [])}
        values = {name: value for name, value in asdict(self).items() if name not in left_out}
        some = {name: value.to_json() for name, value in own.items() if value is not None}
        return {**values, **some, "decisions": [decision.to_json() for decision in self.decisions]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        decisions = [Decision.from_json(decision) for decision in values.get("decisions", [])]
        position = DataPosition(**{"draw": ANYWHERE, **values["position"]})  # absent: begun by an earlier version
        own: dict[str, Any] = {"new_units": NewUnits, "token_losses": LossTable}
        some = {name: kind.from_json(values[name]) for name, kind in own.items() if name in values}
        some |= {"before": Before(**values["before"])} if "before" in values else {}
        return cls(**{**values, **some, "position": position, "decisions": decisions})


def _in_words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
