"""Masked growth: any number of new units and layers, behind a mask that then rises from 0 to 1.

Yao et al. 2024 (MSG, arXiv 2305.02869). At mask 0 the function is preserved exactly, for any new weights and any
ratio of sizes, hidden included (tier 1; the masks are in model/variants/masked_units). New units start from fresh
weights, new layers as copies in stacking order. Once the mask has reached 1, `unmask` leaves a plain model.

Moments: old units keep theirs. New unit i starts with those of old unit i mod old: they have the right size, and their
direction does not matter while the mask is 0. `moments: copy` is the paper's choice: zeros in the new part with the old
step, whose first updates are up to 3.2x too large.
"""

from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from growth.change import ShapeChange, identity
from growth.expansion import AxisMap, OneHot, expand
from growth.operators.base import Inputs, Operator
from growth.operators.stack import Stack
from growth.operators.widen import check_width
from growth.operators.width import axis_maps, changed_widths, wanted_widths
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.initialize import initial_weight
from model.lazy import torch
from model.parameters import ParameterSpec

AXES = {"hidden": "hidden", "heads": "heads", "ffn": "ffn"}


class MaskGrowth(Operator):
    name: ClassVar[str] = "mask_growth"
    changes: ClassVar[tuple[str, ...]] = ("layers", *AXES.values())

    steps: Annotated[int, Field(ge=1)] = 5000
    """Optimizer steps in which the mask rises from 0 to 1, or a share of the run. Fewer put the new units to use
    sooner; more disturb the loss less."""
    seed: int = 0
    """Seed for the weights of new units."""

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        layers = wanted.get("layers", source.layers)
        deep = source if layers == source.layers else Stack().target(source, PartialShape(layers=layers))
        target = deep.replace(**wanted_widths(wanted, AXES))
        changed = {axis for axis, *_ in changed_widths(deep, target)}
        for axis, _, old, new in changed_widths(deep, target):
            check_width(self.name, axis, old, new, whole=False)
        if not changed and target.layers == source.layers:
            raise UserError(
                "grow mask_growth: the shape asks for no more hidden, heads, ffn or layers; set one of them there"
            )
        masked: dict[str, Any] = {axis: getattr(deep, axis) for axis in changed}
        return target.replace(masked={**masked, "layers": tuple(range(source.layers, layers)), "steps": self.steps})

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        deeper = target.layers > source.layers
        deep = Stack().target(source, PartialShape(layers=target.layers)) if deeper else source
        depth = Stack().rule(source, deep, inputs) if deeper else identity(source)
        maps_of = axis_maps(deep, target, behind_mask)
        copied_of = axis_maps(deep, target, copied)

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            old = depth.record(spec.name, fetch)
            record = expand(spec, old, maps_of(spec.block))
            is_old = expand(spec, Record.fresh(torch.ones_like(old.weight)), maps_of(spec.block)).weight
            fresh = initial_weight(target, spec.name, self.seed).to(record.weight)
            record = replace(record, weight=record.weight + (1 - is_old) * fresh)
            if self.moments == "copy":
                return record
            neighbour = expand(spec, old, copied_of(spec.block))
            return replace(record, exp_avg=neighbour.exp_avg, exp_avg_sq=neighbour.exp_avg_sq)

        return ShapeChange(source, target, rule)


def behind_mask(axis: str, block: int | None, old: int, new: int) -> AxisMap:
    """Old units unchanged, then zeros, for producers and consumers."""
    present = OneHot(torch.arange(new) % old, (torch.arange(new) < old).double(), old)
    return AxisMap(present, present)


def copied(axis: str, block: int | None, old: int, new: int) -> AxisMap:
    """New unit i with the values of old unit i mod old."""
    return AxisMap.kept(torch.arange(new) % old, old)
