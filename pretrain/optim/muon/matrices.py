"""What is orthogonalized as one: a matrix of a layer, of the parameter table, or the part of one that holds some heads.

Rows are the axes that a parameter puts out, columns those that it takes in: the table lists them in this order.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod

from model.lazy import Tensor
from model.parameter_spec import ParameterSpec

ROUND_NUMEL = 2**22
"""Elements that a rank orthogonalizes while those of its next round travel: 8 MiB in bf16. A larger matrix is a round
of its own."""


@dataclass(frozen=True)
class Matrix:
    """One or several matrices of equal size, side by side, that are put together on one rank."""

    spec: ParameterSpec
    """The parameter; of a `shard`, with the axes that it has there."""
    heads_apart: bool = False
    shard: int | None = None
    """The tensor-parallel rank, where tensor parallelism cuts between matrices: then each rank's are its own."""

    @property
    def name(self) -> str:
        """The parameter's."""
        return self.spec.name

    @property
    def numel(self) -> int:
        return self.spec.numel

    @property
    def size(self) -> tuple[int, int, int]:
        """Number of matrices, rows and columns of each."""
        axes = [axis for index, axis in enumerate(self.spec.axes) if index != self._between]
        count = 1 if self._between is None else self.spec.axes[self._between].size
        columns = prod(axis.size for axis in axes if axis.role == "consumed")
        return count, prod(axis.size for axis in axes) // columns, columns

    def view(self, tensor: Tensor) -> Tensor:  # spec.shape -> [count, rows, columns]
        return (tensor if self._between is None else tensor.movedim(self._between, 0)).reshape(self.size)

    def restore(self, matrices: Tensor) -> Tensor:  # [count, rows, columns] -> spec.shape
        if self._between is None:
            return matrices.reshape(self.spec.shape)
        shape = list(self.spec.shape)
        count = shape.pop(self._between)
        return matrices.reshape(count, *shape).movedim(0, self._between)

    @property
    def _between(self) -> int | None:
        """Index of the axis that separates the matrices: heads, if they are apart."""
        return _heads_axis(self.spec) if self.heads_apart else None


def matrices_of(
    specs: Iterable[ParameterSpec], heads_apart: bool = False, tensor_parallel: int = 1
) -> Iterator[Matrix]:
    """The matrices of the layers among these parameters."""
    for spec in specs:
        if not spec.is_layer_matrix:
            continue
        takes_in = [axis.role == "consumed" for axis in spec.axes]
        assert takes_in == sorted(takes_in), f"{spec.name}: the axes that it takes in are to be the last"
        between = _heads_axis(spec) if heads_apart else None
        if between is None or between != spec.tensor_parallel_axis or tensor_parallel == 1:
            yield Matrix(spec, heads_apart)
            continue
        heads = spec.axes[between]
        axes = list(spec.axes)
        axes[between] = replace(heads, size=heads.size // tensor_parallel)
        for shard in range(tensor_parallel):
            yield Matrix(replace(spec, axes=tuple(axes), tensor_parallel_axis=None), heads_apart, shard)


def update_products(size: tuple[int, int, int], steps: int) -> Iterator[tuple[int, int, int, int]]:
    """Of the Newton-Schulz iteration, as [m, k, n, times]: each step makes X X^T, its square, and the product with
    X."""
    count, rows, columns = size
    short, long = sorted((rows, columns))
    yield short, long, short, count * steps
    yield short, short, short, count * steps
    yield short, short, long, count * steps


def update_flops(size: tuple[int, int, int], steps: int) -> int:
    return sum(2 * m * k * n * times for m, k, n, times in update_products(size, steps))


def _heads_axis(spec: ParameterSpec) -> int | None:
    return next((index for index, axis in enumerate(spec.axes) if axis.name == "heads"), None)
