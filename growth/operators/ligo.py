"""LiGO: width and depth at once, by linear maps of the weights that are learned on the corpus and then applied.

Wang et al. 2023 (arXiv 2303.00980); growth/learned_maps.py has the formula. For some steps the new model runs on rows
of the corpus with weights that are a function of the maps and of the trained model, which stays as it is; AdamW updates
the maps alone. Then they are applied as one change of shape. Tier 3: the function changes, as new units enter every
norm. The paper starts with a fresh optimizer (`moments: reset`). By default the entries of old units keep the moments
of the layer that weighs most in them, i mod L, which is an estimate, and those of new units begin without any.
"""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from growth.change import MomentPolicy, ShapeChange
from growth.learned_maps import LearnedMaps, Learning, map_flops
from growth.operators.base import Inputs, Operator
from growth.operators.multilevel import at_depth
from growth.operators.width import wanted_widths
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from model.config import BertConfig
from model.errors import UserError
from model.lazy import Tensor, torch
from model.parameters import ParameterSpec

WIDTHS = ("hidden", "heads", "ffn")
MAPPED = (
    *("attention_bias", "ffn_bias", "norm_bias", "head_bias", "norm_type", "embedding_norm", "gated"),
    *("positions", "rotary_theta", "embedding_size"),
)
"""The options beyond a plain BERT whose parameters the maps reach in one way only."""


class Ligo(Operator):
    name: ClassVar[str] = "ligo"
    changes: ClassVar[tuple[str, ...]] = ("layers", *WIDTHS)
    adds_units: ClassVar[bool] = True

    moments: MomentPolicy = "new_units"
    """`new_units`: old units keep their moments, new ones start at zero; `reset`: all moments start at zero, as in the
    paper."""
    steps: Annotated[int, Field(ge=0)] = 100
    """Steps in which the maps are learned, each over a global batch of the stage, read from where the run is; the
    stage then begins with the same rows. 0 applies the maps as they are drawn. More than 100 did not help in the
    paper."""
    lr: Annotated[float, Field(gt=0)] = 2e-4
    """Learning rate of the maps, the same in all of these steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Weight decay of the maps."""

    @model_validator(mode="after")
    def _has_moments_to_give(self) -> "Ligo":
        if self.moments in ("transform", "copy"):
            raise UserError(
                f"moments {self.moments} is not for ligo: units that are mixed of all others have no moments yet; "
                "choose new_units or reset"
            )
        return self

    @property
    def learning_steps(self) -> int:
        return self.steps

    def learning_flops(self, source: BertConfig, target: BertConfig) -> int:
        return map_flops(source, target)

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        if source.sharing is not None or any(isinstance(getattr(source, field), tuple) for field in ("heads", "ffn")):
            raise UserError("grow ligo: needs layers of equal widths with a block each; unshare first")
        if strange := source.variants.keys() - set(MAPPED):
            raise UserError(f"grow ligo: has no maps for {min(strange)}; grow before that, or use another operator")
        if not wanted:
            raise UserError(f"grow ligo: the shape sets none of {', '.join(self.changes)}; set one of them")
        for field, value in wanted.items():
            if not isinstance(value, int):
                raise UserError(f"grow ligo: {field} {value} is not one number for all layers; give one")
        target = at_depth(source, wanted.get("layers", source.layers)).replace(
            **wanted_widths(wanted, {field: field for field in WIDTHS})
        )
        sizes = {field: (getattr(source, field), getattr(target, field)) for field in self.changes}
        for field, (old, new) in sizes.items():
            if new < old:
                raise UserError(
                    f"grow ligo: {field} {old} -> {new} shrinks, but all old units and layers stay; ask for more"
                )
        if all(old == new for old, new in sizes.values()):
            raise UserError(f"grow ligo: {', '.join(wanted)} stay as they are; ask for more, or leave it out")
        return target

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        maps = LearnedMaps.drawn(source, target, inputs.seed)
        if self.steps:
            maps = inputs.learn(maps, Learning(self.steps, self.lr, self.weight_decay), inputs.fetch)

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            records = [fetch(name) for name in maps.sources(spec)]
            weight = maps.grown(spec, torch.stack([record.weight for record in records])).reshape(spec.shape)
            before = records[(spec.block or 0) % len(records)]
            return Record.of((weight, *(_in_corner(spec, each) for each in before.tensors()[1:])), before.step)

        return ShapeChange(source, target, rule)


def _in_corner(spec: ParameterSpec, moment: Tensor) -> Tensor:
    """Old units come first on every axis; new ones have zeros. [old shape] -> [spec.shape]"""
    grown = moment.new_zeros(spec.shape)
    grown[tuple(slice(size) for size in moment.shape)] = moment
    return grown
