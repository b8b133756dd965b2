"""The algebra of width: one axis is mapped by a pair of matrices (P, C), and every parameter follows from its axes.

Activations on the axis become x' = P x, and whatever consumes them uses C. Both are [new, old], and the function is
preserved when C^T P = I. A parameter with a produced and a consumed axis becomes

    weight       W' = P_out W C_in^T        (P on produced axes, C on consumed ones)
    gradient     G' = C_out G P_in^T        (the dual: C on produced axes, P on consumed ones)
    exp_avg      as the gradient
    exp_avg_sq   as the gradient, with the coefficients squared

In the common case new units are copies of old ones: P copies, and C copies and divides by the number of copies. Then a
consumed axis has its weight divided and its gradient as it is; a produced axis the other way round. A fixed axis that
is mapped (positions) is treated as produced.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from growth.change import MomentPolicy, ShapeChange
from growth.state import Fetch, Record
from model.config import BertConfig
from model.lazy import Tensor, torch
from model.parameters import ParameterSpec


@dataclass(frozen=True)
class OneHot:
    """A matrix with one entry in each row: new unit i is `scale[i]` times old unit `index[i]`."""

    index: Tensor  # [new] int64
    scale: Tensor  # [new] float64
    old_size: int

    def along(self, axis: int, tensor: Tensor) -> Tensor:
        return self._apply(axis, tensor, self.scale)

    def along_squared(self, axis: int, tensor: Tensor) -> Tensor:
        """The same map for a mean square: coefficients squared."""
        return self._apply(axis, tensor, self.scale.square())

    def dense(self) -> Tensor:  # [new, old]
        matrix = torch.zeros(len(self.index), self.old_size, dtype=torch.float64)
        return matrix.scatter_(1, self.index.unsqueeze(1), self.scale.unsqueeze(1))

    def _apply(self, axis: int, tensor: Tensor, scale: Tensor) -> Tensor:
        mapped = tensor.index_select(axis, self.index.to(tensor.device))
        if bool((scale == 1).all()):
            return mapped
        shape = [-1 if dimension == axis else 1 for dimension in range(tensor.dim())]
        return mapped * scale.to(tensor).view(shape)


@dataclass(frozen=True)
class Dense:
    """Any matrix."""

    matrix: Tensor  # [new, old] float64

    @property
    def old_size(self) -> int:
        return self.matrix.shape[1]

    def along(self, axis: int, tensor: Tensor) -> Tensor:
        return torch.tensordot(self.matrix.to(tensor), tensor, dims=([1], [axis])).movedim(0, axis)

    def along_squared(self, axis: int, tensor: Tensor) -> Tensor:
        """The mean square of a sum whose terms agree, (sum_j |a_j| sqrt(v_j))^2: exact for copies, else an upper bound.

        An update is at most too small by the square root of the number of terms.
        """
        return Dense(self.matrix.abs()).along(axis, tensor.sqrt()).square()

    def dense(self) -> Tensor:
        return self.matrix


@dataclass(frozen=True)
class AxisMap:
    """What happens to the units of one axis."""

    produce: OneHot | Dense
    """P: for what the parameter puts out."""
    consume: OneHot | Dense
    """C: for what it takes in."""

    @property
    def old_size(self) -> int:
        return self.produce.old_size

    @classmethod
    def copies(cls, index: Sequence[int] | Tensor, old_size: int) -> "AxisMap":
        """New unit i copies old unit `index[i]`; every old unit has at least one copy."""
        index = torch.as_tensor(index)
        num_copies = torch.bincount(index, minlength=old_size)
        assert num_copies.all(), "a unit without a copy is lost: use `kept`"
        ones = torch.ones(len(index), dtype=torch.float64)
        return cls(OneHot(index, ones, old_size), OneHot(index, 1 / num_copies[index].double(), old_size))

    @classmethod
    def kept(cls, index: Sequence[int] | Tensor, old_size: int) -> "AxisMap":
        """Only the units in `index` stay, or repeat, with their weights as they are. Has no inverse."""
        index = torch.as_tensor(index)
        select = OneHot(index, torch.ones(len(index), dtype=torch.float64), old_size)
        return cls(select, select)

    def without_mean(self, axis: int, tensor: Tensor) -> Tensor:
        """A tensor minus its mean over the copies of each old unit: consumers may add it, for it cancels (P^T N =
        0)."""
        assert isinstance(self.produce, OneHot)
        index = self.produce.index.to(tensor.device)
        shape = list(tensor.shape)
        shape[axis] = self.produce.old_size
        sums = tensor.new_zeros(shape).index_add(axis, index, tensor)
        return tensor - self.consume.along(axis, sums)

    def inverse(self) -> "AxisMap":
        """The way back, (C^T, P^T): units that were copied become their mean, and their consumers' weights are
        summed."""
        return AxisMap(Dense(self.consume.dense().T), Dense(self.produce.dense().T))


def expand(
    spec: ParameterSpec, record: Record, maps: Mapping[str, AxisMap], moments: MomentPolicy = "transform"
) -> Record:
    """The record of a parameter after its axes are mapped, by name; axes without a map stay."""
    weight, exp_avg, exp_avg_sq = record.weight, record.exp_avg, record.exp_avg_sq
    for position, axis in enumerate(spec.axes):
        if axis.name not in maps:
            continue
        pair = maps[axis.name]
        outward, dual = (pair.consume, pair.produce) if axis.role == "consumed" else (pair.produce, pair.consume)
        weight = outward.along(position, weight)
        of_first, of_second = dual.along, dual.along_squared
        if moments == "copy":
            of_first = of_second = pair.produce.along
        exp_avg = of_first(position, exp_avg)
        exp_avg_sq = None if exp_avg_sq is None else of_second(position, exp_avg_sq)
        if moments == "new_units":
            for moment in (exp_avg, exp_avg_sq):
                if moment is not None:  # a tensor that the map has just made
                    moment.narrow(position, pair.old_size, axis.size - pair.old_size).zero_()
    return Record(weight, exp_avg, exp_avg_sq, record.step)


def map_axes(
    source: BertConfig,
    target: BertConfig,
    maps_of: Callable[[int | None], Mapping[str, AxisMap]],
    moments: MomentPolicy = "transform",
) -> ShapeChange:
    """Every parameter expanded along its axes; `maps_of(block)` gives the maps by axis name (None: outside the
    blocks)."""

    def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
        return expand(spec, fetch(spec.name), maps_of(spec.block), moments)

    return ShapeChange(source, target, rule)
