"""Pruning: each layer keeps some of its heads or FFN neurons, and its tensors become physically smaller.

Chen et al. 2021 (EarlyBERT, arXiv 2101.00063), section 3: rows of query, key, value (or of the FFN's input layer) and
columns of the output layer are removed with their units. They prune heads layer by layer, and neurons wherever in the
model their coefficients are smallest (`quota: global`). Tier 3: the function changes. Units that stay keep their
moments and steps. The result equals the dense model with the outputs of the removed units set to zero.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from growth.change import ShapeChange
from growth.expansion import AxisMap, map_axes
from growth.operators.base import Inputs, Operator, Ticket
from growth.operators.width import FIELDS, axis_maps, changed_widths
from growth.partial_shape import PartialShape
from growth.state import Fetch
from model.config import BertConfig
from model.errors import UserError
from model.lazy import Tensor, torch
from model.parameters import parameter_table

Score = Callable[[int], Tensor]
"""One score for each unit of a block. The highest stay."""


class Prune(Operator):
    axis: ClassVar[str]

    keep: tuple[tuple[int, ...], ...] | None = None
    """The units to keep in each layer, as a list for each. By default the shape says how many, and the units with the
    largest slimming coefficients stay (without coefficients, those with the largest weights)."""
    scores: Literal["learned", "random"] = "learned"
    """How units are ranked. `random` draws them: the control that a learned choice has to beat."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed for the random choice."""

    @property
    def prunes_by_coefficients(self) -> bool:
        return self.keep is None and self.scores == "learned"

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        field = FIELDS[self.axis]
        if self.keep is not None:
            if len(self.keep) != source.layers:
                raise UserError(f"grow {self.name}: keep lists {len(self.keep)} layers, the model has {source.layers}")
            target = source.replace(**{field: tuple(len(set(units)) for units in self.keep)})
        elif field in wanted:
            target = source.replace(**{field: wanted[field]})
        else:
            raise UserError(f"grow {self.name}: set shape.{field} to the number to keep, or name the units in keep")
        for axis, block, old, new in changed_widths(source, target):
            if new > old:
                raise UserError(f"grow {self.name}: {axis} {old} -> {new} in block {block} grows; use widen")
        for layer, units in enumerate(self.keep or ()):
            old, new = (config.layer_width(field, layer) for config in (source, target))
            if not units or not 0 <= min(units) <= max(units) < old:
                raise UserError(f"grow {self.name}: keep {list(units)} of layer {layer}: choose some of 0..{old - 1}")
            if len(set(units)) != new:
                raise UserError(
                    f"grow {self.name}: keep of layer {layer} names {len(set(units))} {field}, but {field}_multiple "
                    f"asks for {new}; keep that many"
                )
            if set(units) != set(self._kept(source, source.block_of(layer))):
                raise UserError(f"grow {self.name}: layer {layer} shares its block; keep the same units in all of them")
        return target

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        score = self.score(source, inputs.fetch)

        def make(axis: str, block: int | None, old: int, new: int) -> AxisMap:
            assert block is not None
            if self.keep is not None:
                return AxisMap.kept(sorted(set(self._kept(source, block))), old)
            return AxisMap.kept(best_units(score(block), new), old)

        return map_axes(source, target, axis_maps(source, target, make), self.moments)

    def ticket(self, source: BertConfig, wanted: PartialShape, coefficients: Mapping[str, Tensor]) -> Ticket:
        if not self.prunes_by_coefficients:
            return {}

        def score(block: int) -> Tensor:
            return coefficients[coefficients_name(self.axis, block)]

        target = self.target(source, wanted | self.widths(source, wanted, score))
        kept = target.block_heads if self.axis == "heads" else target.block_ffn
        ticket: Ticket = {}
        for block in range(target.num_blocks):
            units = set(best_units(score(block), kept(block)).tolist())
            ticket[self.axis, block] = tuple(unit in units for unit in range(len(score(block))))
        return ticket

    def settled(self, source: BertConfig, wanted: PartialShape, inputs: Inputs) -> PartialShape:
        return wanted | self.widths(source, wanted, self.score(source, inputs.fetch))

    def widths(self, source: BertConfig, wanted: PartialShape, score: Score) -> dict[str, Any]:
        """The fields of the wanted shape that the scores decide."""
        return {}

    def score(self, source: BertConfig, fetch: Fetch) -> Score:
        if self.scores == "learned":
            return lambda block: unit_scores(source, self.axis, block, fetch)

        def drawn(block: int) -> Tensor:
            generator = torch.Generator().manual_seed(self.seed * source.num_blocks + block)
            num_units = source.block_heads(block) if self.axis == "heads" else source.block_ffn(block)
            return torch.rand(num_units, generator=generator, dtype=torch.float64)

        return drawn

    def _kept(self, config: BertConfig, block: int) -> tuple[int, ...]:
        assert self.keep is not None
        return self.keep[config.layers_of(block)[0]]


class PruneHeads(Prune):
    name: ClassVar[str] = "prune_heads"
    changes: ClassVar[tuple[str, ...]] = ("heads",)
    axis: ClassVar[str] = "heads"


class PruneNeurons(Prune):
    name: ClassVar[str] = "prune_neurons"
    changes: ClassVar[tuple[str, ...]] = ("ffn",)
    axis: ClassVar[str] = "ffn"

    quota: Literal["layer", "global"] = "layer"
    """Where the neurons are removed. `layer` keeps the same number in every layer. `global` keeps as many in total,
    wherever they score highest, and at least one per layer."""

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        if self.quota == "global" and self.keep is not None:
            raise UserError(f"grow {self.name}: keep says which neurons stay, so quota global has nothing to decide")
        if self.quota == "global" and source.sharing is not None:
            raise UserError(f"grow {self.name}: quota global needs layers with a block each; unshare first")
        return super().target(source, wanted)

    def check_layout(self, target: BertConfig, tensor_parallel: int) -> None:
        if self.quota == "global" and target.ffn_multiple % tensor_parallel:
            raise UserError(
                f"grow {self.name}: quota global decides each layer's width, which layout.tensor_parallel "
                f"{tensor_parallel} has to divide; set model.ffn_multiple to a multiple of it"
            )

    def widths(self, source: BertConfig, wanted: PartialShape, score: Score) -> dict[str, Any]:
        if self.quota == "layer":
            return {}
        target = self.target(source, wanted)
        num_kept = sum(target.layer_width("ffn", layer) for layer in range(target.layers))
        return {"ffn": global_quota([score(layer) for layer in range(source.layers)], num_kept)}


def best_units(scores: Tensor, num_kept: int) -> Tensor:  # [units] -> [num_kept]
    """The units with the highest scores, in their order; ties go to the first."""
    return scores.argsort(descending=True, stable=True)[:num_kept].sort().values


def global_quota(scores: Sequence[Tensor], num_kept: int) -> list[int]:
    """How many of the best `num_kept` units of all layers each layer has; the best of every layer always stays."""
    layers = torch.cat([torch.full((len(each),), layer) for layer, each in enumerate(scores)])
    ranked = torch.cat([each.double().index_fill(0, each.argmax(), torch.inf) for each in scores])
    return torch.bincount(layers[best_units(ranked, num_kept)], minlength=len(scores)).tolist()


def coefficients_name(axis: str, block: int) -> str:
    """The parameter that holds the slimming coefficients of a block's heads or FFN units."""
    branch = {"heads": "attention", "ffn": "feedforward"}[axis]
    return f"blocks.{block}.{branch}.coefficients"


def unit_scores(config: BertConfig, axis: str, block: int, fetch: Fetch) -> Tensor:  # [units]
    """The slimming coefficient of each unit of an axis; without coefficients, the sum of squares of its weights."""
    if config.slimming is not None:
        return fetch(coefficients_name(axis, block)).weight
    total = torch.zeros((), dtype=torch.float64)
    for spec in parameter_table(config).values():
        position = next((i for i, other in enumerate(spec.axes) if other.name == axis), None)
        if spec.block == block and position is not None:
            weight = fetch(spec.name).weight.double()
            total = total + weight.movedim(position, 0).reshape(weight.shape[position], -1).square().sum(1)
    return total
