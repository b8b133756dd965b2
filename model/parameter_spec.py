"""What the parameter table says of one parameter: its name, its axes and what each axis does there."""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

VOCABULARY_MULTIPLE = 128
"""The word table is padded to this multiple under every tensor-parallel size: the size never changes the shape."""

FP8_MULTIPLE = 16
"""Of the sides of matrices that a GPU multiplies in FP8."""

Role = Literal["produced", "consumed", "fixed"]
"""What a parameter does on an axis. `produced`: its output lives there; `consumed`: its input does; `fixed`: neither
grows with it nor feeds it (vocabulary, positions, classes)."""


@dataclass(frozen=True)
class Axis:
    name: str
    size: int
    role: Role


@dataclass(frozen=True)
class ParameterSpec:
    name: str
    axes: tuple[Axis, ...]
    tensor_parallel_axis: int | None = None
    """Index of the axis that tensor parallelism cuts; None: every rank holds the whole parameter."""
    decay: bool = True
    """Whether weight decay applies: to matrices, not to biases and LayerNorms."""
    init: Literal["normal", "zeros", "ones"] = "normal"
    block: int | None = None
    trainable: bool = True

    def __post_init__(self) -> None:
        assert self.axes, f"{self.name} has no axes; a scalar has one axis of size 1 whose role is fixed"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @cached_property
    def padded_shape(self) -> tuple[int, ...]:
        """The shape in memory before tensor parallelism cuts it: the vocabulary rounded up to its multiple."""
        multiple = {"vocabulary": VOCABULARY_MULTIPLE}
        return tuple(-(-axis.size // (m := multiple.get(axis.name, 1))) * m for axis in self.axes)

    def local_shape(self, tensor_parallel: int) -> tuple[int, ...]:
        """Shape of one tensor-parallel rank's part, one dimension for each axis."""
        shape = list(self.padded_shape)
        if self.tensor_parallel_axis is not None:
            shape[self.tensor_parallel_axis] //= tensor_parallel
        return tuple(shape)

    @property
    def is_product(self) -> bool:
        """Whether tokens are multiplied by it: a matrix that sums over some axes and puts out others."""
        roles = [axis.role for axis in self.axes]
        return "consumed" in roles and set(roles) != {"consumed"}

    @property
    def is_layer_matrix(self) -> bool:
        """Whether it is a matrix inside a layer, which is what Muon orthogonalizes."""
        return self.block is not None and self.is_product

    @property
    def between_regions(self) -> bool:
        """Whether it works on tokens between the tensor-parallel regions: where these are divided among the ranks
        (sequence parallelism), each rank has a part of its gradient."""
        in_a_head = self.name.startswith(("mlm.", "pooler.", "sentence."))
        return self.tensor_parallel_axis is None and not in_a_head and not self.name.endswith(".down")

    @property
    def local_name(self) -> str:
        """The name inside its block (`attention.query.weight`), or the whole name outside the blocks."""
        return self.name if self.block is None else self.name.split(".", 2)[2]

    @property
    def module(self) -> str:
        """The local name of the module that holds it: `attention.query`."""
        return self.local_name.rpartition(".")[0]
