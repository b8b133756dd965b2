"""Learned maps (LiGO): the weights of a grown model as a linear function of those of a trained one, to be learned.

Wang et al. 2023 (arXiv 2303.00980), as in its released code. For layer i of the new model, and layers j of the old one,

    W'_i = [I; B_out] (sum_j w_ij W_j) [I; A_in]^T

The identity is fixed, so old units come first and stay; a row of B makes a new unit of the old ones. What lives on the
same units has the same B, whether it puts them out or takes them in: one for the residual stream, and one each for the
queries, the keys, the values (with the input of the attention's output) and the FFN units of every layer. The MLM
transform and the pooler have their own. Biases and norms follow what they are added to. The w of each parameter are its
own. They exist where the number of layers changes, and a B where a width does.

The word table is tied to the decoder here, so the decoder takes in by the map of the residual stream; the released code
unties them.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod

from growth.change import source_name
from model.config import BertConfig
from model.lazy import Tensor, torch
from model.parameters import Axis, ParameterSpec, parameter_table

DEPTH_NOISE = 0.03
Part = tuple[int, int]
"""Tensor-parallel rank and number of ranks."""
WHOLE: Part = (0, 1)


@dataclass(frozen=True)
class Learning:
    """How maps are learned: steps of AdamW on them alone."""

    steps: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class LearnedMaps:
    source: BertConfig
    target: BertConfig
    width: dict[str, Tensor]
    """B by the units that it adds to (`hidden`, `blocks.2.value`), [new units, old units]."""
    depth: dict[str, Tensor]
    """w by the parameter of the target that it makes, [old layers]."""

    @classmethod
    def drawn(cls, source: BertConfig, target: BertConfig, seed: int) -> "LearnedMaps":
        """Before the first step: rows of B uniform in [0, 1), w 1 at layer i mod L and uniform in [0, 0.03) besides,
        both divided by their sum."""
        width, depth = {}, {}
        for name, (old, new) in _widths(source, target).items():
            width[name] = _normalised(torch.rand(new - old, old, generator=_stream(seed, name)))
        if source.layers != target.layers:
            for spec in parameter_table(target).values():
                if spec.block is not None:
                    weights = DEPTH_NOISE * torch.rand(source.layers, generator=_stream(seed, spec.name))
                    weights[spec.block % source.layers] += 1
                    depth[spec.name] = _normalised(weights)
        return cls(source, target, width, depth)

    def tensors(self) -> list[Tensor]:
        return [*self.width.values(), *self.depth.values()]

    def each(self, function: Callable[[Tensor], Tensor]) -> "LearnedMaps":
        """With another tensor in the place of each."""
        width, depth = ({name: function(each) for name, each in kind.items()} for kind in (self.width, self.depth))
        return replace(self, width=width, depth=depth)

    def sources(self, spec: ParameterSpec) -> list[str]:
        """The parameters of the old model that one of the new model is made of."""
        if spec.name not in self.depth:
            return [spec.name]
        return [source_name(spec, layer) for layer in range(self.source.layers)]

    def grown(self, spec: ParameterSpec, old: Tensor, part: Part = WHOLE) -> Tensor:
        """A weight of the target, or a tensor-parallel rank's part of it; the gradient flows to the maps.

        old: the weights of `sources(spec)`, [number, *their shape] -> [outputs, inputs] or [outputs], heads and
        head_dim as one axis. Of a part, `old` is that part, too, where the axis that is cut has no map
        (`maps_the_cut`).
        """
        matrix = _as_matrix(spec, old)  # [number, outputs, inputs], inputs 1 for a vector
        if spec.name in self.depth:
            mixed = self.depth[spec.name].to(old).unsqueeze(0) @ matrix.flatten(1)
            matrix = mixed.view(matrix.shape[1:])
        else:
            matrix = matrix[0]
        for side, (name, num_units) in enumerate(sides(spec)):
            if name in self.width:
                rank, size = part if side == spec.tensor_parallel_axis else WHOLE
                units = range(rank * num_units // size, (rank + 1) * num_units // size)
                matrix = _along(side, matrix, self.width[name].to(old), units)
        return matrix if len(sides(spec)) > 1 else matrix.squeeze(1)

    def maps_the_cut(self, spec: ParameterSpec) -> bool:
        """Whether a width map runs along the axis that tensor parallelism cuts."""
        axis = spec.tensor_parallel_axis
        return axis is not None and sides(spec)[axis][0] in self.width


def num_coefficients(source: BertConfig, target: BertConfig) -> int:
    """Entries of all maps."""
    num_mixed = sum(spec.block is not None for spec in parameter_table(target).values())
    of_depth = num_mixed * source.layers if source.layers != target.layers else 0
    return of_depth + sum((new - old) * old for old, new in _widths(source, target).values())


def map_flops(source: BertConfig, target: BertConfig) -> int:
    """Of one learning step, what the maps cost besides the model: its weights are computed from them once for the model
    and once for the gradients, which are then taken through."""
    widths, old_table = _widths(source, target), parameter_table(source)
    mixes, total = source.layers != target.layers, 0
    for spec in parameter_table(target).values():
        sizes = [size for _, size in sides(old_table[_origin(spec, source)])]
        learned, forward, backward = mixes and spec.block is not None, 0, 0
        if learned:
            forward = backward = 2 * source.layers * prod(sizes)
        for side, (name, new) in enumerate(sides(spec)):
            if name in widths:
                product = 2 * (new - sizes[side]) * prod(sizes)
                forward += product
                backward += product * (2 if learned else 1)  # the map's gradient, and that of what it is applied to
                sizes[side], learned = new, True
        total += 2 * forward + backward
    return total


def sides(spec: ParameterSpec) -> list[tuple[str | None, int]]:
    """A parameter's outputs, and its inputs if it has any: the name of their map, and how many units they are."""
    found: list[tuple[str | None, int]] = []
    for axis in spec.axes:
        if axis.name == "head_dim":
            name, num_heads = found.pop()
            found.append((name, num_heads * axis.size))
        else:
            found.append((_map_name(spec, axis), axis.size))
    return found


def _map_name(spec: ParameterSpec, axis: Axis) -> str | None:
    """None: such an axis does not grow."""
    if axis.name == "heads":
        projection = "value" if axis.role == "consumed" else spec.module.removeprefix("attention.")
        return f"blocks.{spec.block}.{projection}"
    if axis.name == "ffn":
        return f"blocks.{spec.block}.ffn"
    if axis.name != "hidden":
        return None
    for head, made, taken in (("mlm", "mlm.transform", "mlm.norm"), ("pooler", "pooler", "sentence")):
        if spec.module == taken or (spec.module == made and axis.role == "produced"):
            return head
    return "hidden"


def _widths(source: BertConfig, target: BertConfig) -> dict[str, tuple[int, int]]:
    """Old and new number of units, by map, wherever they differ."""
    old_table = parameter_table(source)
    pairs: Iterator[tuple[str | None, int, int]] = (
        (name, old, new)
        for spec in parameter_table(target).values()
        for (name, new), (_, old) in zip(sides(spec), sides(old_table[_origin(spec, source)]), strict=True)
    )
    return {name: (old, new) for name, old, new in pairs if name is not None and old != new}


def _origin(spec: ParameterSpec, source: BertConfig) -> str:
    """Its counterpart in the old layer i mod L."""
    return spec.name if spec.block is None else source_name(spec, spec.block % source.layers)


def _as_matrix(spec: ParameterSpec, old: Tensor) -> Tensor:
    """[number, *shape] -> [number, outputs, inputs]."""
    heads = next((place for place, axis in enumerate(spec.axes, start=1) if axis.name == "heads"), None)
    matrix = old if heads is None else old.flatten(heads, heads + 1)
    return matrix if matrix.dim() == 3 else matrix.unsqueeze(2)


def _along(side: int, matrix: Tensor, rows: Tensor, units: range) -> Tensor:
    """Some of the units that [I; rows] makes of those on one side of a matrix. rows [new, old]"""
    old = matrix if side == 0 else matrix.T  # [old units, others]
    num_old = len(old)
    kept = old[units.start : min(units.stop, num_old)]
    made = rows[max(units.start - num_old, 0) : max(units.stop - num_old, 0)] @ old
    grown = torch.cat([kept, made])
    return grown if side == 0 else grown.T


def _normalised(rows: Tensor) -> Tensor:
    return rows / rows.sum(-1, keepdim=True)


def _stream(seed: int, name: str) -> "torch.Generator":
    """Each map has its own random numbers: they depend on nothing but the seed and its name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
