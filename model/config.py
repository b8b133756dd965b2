"""The shape of the model: everything that decides which parameters exist and what is computed from them."""

from functools import cached_property
from itertools import chain
from typing import Any

from pydantic import ValidationError, model_validator

from model.consistency import contradictions
from model.errors import UserError, nearest
from model.fields import Flag
from model.registry import takes
from model.shape import PlainBert, Shape
from model.variants.frozen_layers import WithFrozenLayers
from model.variants.inner_heads import WithInnerHeads
from model.variants.kernel_attention import WithKernelAttention
from model.variants.layer_drop import WithLayerDrop
from model.variants.light_attention import WithLightAttention
from model.variants.local_attention import WithLocalAttention
from model.variants.masked_units import WithMaskedUnits
from model.variants.pooled_input import WithPooledInput
from model.variants.slimming import WithSlimming
from model.variants.sub_models import WithSubModels
from model.variants.token_dropout import WithTokenDropout
from model.variants.token_dropping import WithTokenDropping

MODERNBERT: dict[str, Any] = dict(
    **dict(max_positions=8192, type_vocab=0, sentence_head=False),
    **dict(positions="rotary", rotary_theta=160_000.0, gated=True, norm="pre", embedding_norm=True, first_norm=False),
    **dict(attention_bias=False, ffn_bias=False, norm_bias=False, head_bias=False, norm_eps=1e-5),
    **dict(hidden_dropout=0.0, attention_dropout=0.0),
    local_attention={"window": 128, "global_every": 3, "theta": 10_000.0},
)
"""What the presets of ModernBERT share (Warner et al. 2024, arXiv 2412.13663)."""
ESM2: dict[str, Any] = dict(
    **dict(max_positions=1026, type_vocab=0, sentence_head=False),
    **dict(positions="rotary", norm="pre", norm_eps=1e-5, token_dropout={"mask_token": 32}),
    **dict(hidden_dropout=0.0, attention_dropout=0.0),
)
"""What the presets of ESM-2 share (Lin et al. 2022, doi 10.1101/2022.07.20.500902)."""
PRESETS: dict[str, dict] = {
    "tiny": dict(layers=2, hidden=128, heads=2, ffn=512),
    "mini": dict(layers=4, hidden=256, heads=4, ffn=1024),
    "small": dict(layers=4, hidden=512, heads=8, ffn=2048),
    "medium": dict(layers=8, hidden=512, heads=8, ffn=2048),
    "base": dict(layers=12, hidden=768, heads=12, ffn=3072),
    "large": dict(layers=24, hidden=1024, heads=16, ffn=4096),
    "modernbert-base": dict(layers=22, hidden=768, heads=12, ffn=1152) | MODERNBERT,
    "modernbert-large": dict(layers=28, hidden=1024, heads=16, ffn=2624) | MODERNBERT,
    "esm2-8m": dict(layers=6, hidden=320, heads=20, ffn=1280) | ESM2,
    "esm2-35m": dict(layers=12, hidden=480, heads=20, ffn=1920) | ESM2,
    "esm2-150m": dict(layers=30, hidden=640, heads=20, ffn=2560) | ESM2,
    "esm2-650m": dict(layers=33, hidden=1280, heads=20, ffn=5120) | ESM2,
}
"""As published: BERT's sizes by Turc et al. 2019 (arXiv 1908.08962), ModernBERT, ESM-2."""
BERT_VOCABULARY = 30_522
VOCABULARIES = {"modernbert": 50_368, "esm2": 33}
"""Entries in the vocabulary of the presets whose names begin so. All others have BERT's."""


def vocabulary_of(preset: str | None) -> int:
    """Entries in the vocabulary of a published model."""
    return VOCABULARIES.get((preset or "").partition("-")[0], BERT_VOCABULARY)


class BertConfig(
    WithLocalAttention,
    WithTokenDropping,
    WithTokenDropout,
    WithMaskedUnits,
    WithSlimming,
    WithSubModels,
    WithLayerDrop,
    WithInnerHeads,
    WithFrozenLayers,
    WithPooledInput,
    WithLightAttention,
    WithKernelAttention,
):
    """One BERT shape. Frozen, and canonical: two configs of the same model compare equal.

    Its bases are the variants of BERT: this list registers them, and their fields come in the order from the last to
    the first. Local attention is the first: it gives each layer its mask, however others have wrapped the layer. All
    are off by default. Off costs nothing: a plain model runs the same operations.
    """

    def __init__(self, **values: Any):
        """Raises UserError for a shape that contradicts itself. (pydantic would wrap it.)"""
        try:
            super().__init__(**values)
        except ValidationError as error:
            for fault in error.errors():
                if isinstance(cause := fault.get("ctx", {}).get("error"), UserError):
                    raise cause from None
            raise

    @classmethod
    def preset(cls, name: str, **overrides) -> "BertConfig":
        if name not in list(PRESETS):  # a recipe may hold anything there, a list for example
            raise UserError(
                f"model.preset {name!r} is unknown{nearest(str(name), PRESETS)}; choose one of {', '.join(PRESETS)}"
            )
        return cls(**{"vocab_size": vocabulary_of(name), **PRESETS[name], **overrides})

    @model_validator(mode="before")
    @classmethod
    def _equal_models_are_equal(cls, values: Any) -> Any:
        try:
            return cls.canonical(values) if isinstance(values, dict) else values
        except TypeError:  # words where numbers belong: the fields say which
            return values

    @model_validator(mode="after")
    def _consistent(self) -> "BertConfig":
        for contradiction in contradictions(self):
            raise UserError(contradiction)
        return self

    def replace(self, **changes) -> "BertConfig":
        """The same shape with some fields changed, validated again."""
        return BertConfig(**{**self.model_dump(), **changes})

    @classmethod
    def fields_with(cls, mark: Flag) -> tuple[str, ...]:
        """The fields that carry a flag."""
        return tuple(name for name, field in cls.model_fields.items() if mark in field.metadata)

    def without(self, mark: Flag) -> "BertConfig":
        """The same shape with every field that carries a flag set to its default."""
        fields = type(self).model_fields
        used = [name for name in self.fields_with(mark) if self.uses(name)]
        return self.replace(**{name: fields[name].get_default() for name in used}) if used else self

    def check_tensor_parallel(self, size: int) -> None:
        """Raises UserError unless `size` tensor-parallel ranks can cut every axis evenly."""
        axes: dict[str, int] = {}
        for block in range(self.num_blocks):
            axes |= {f"heads of block {block}": self.block_heads(block), f"ffn of block {block}": self.block_ffn(block)}
        axes["padded vocabulary"] = self.padded_vocab_size
        for axis, width in axes.items():
            if width % size:
                raise UserError(
                    f"layout.tensor_parallel {size} does not divide {axis} ({width}); choose a divisor of it"
                )

    @cached_property
    def variants(self) -> dict[str, Any]:
        """The fields that make this more than a plain BERT, and their values."""
        extra = [name for name in type(self).model_fields if name not in PlainBert.model_fields]
        return {name: getattr(self, name) for name in extra if self.uses(name)}

    def summary(self) -> str:
        """The shape in a few words, for tables and logs."""

        def span(widths: int | tuple[int, ...]) -> str:
            return str(widths) if isinstance(widths, int) else f"{min(widths)}..{max(widths)}"

        text = f"{self.layers}x{self.hidden} heads {span(self.heads)} ffn {span(self.ffn)}"
        if self.sharing is not None:
            text += f" on {self.num_blocks} shared block{'s'[: self.num_blocks > 1]}"
        variants = (f"{name} {_in_words(value)}" for name, value in self.variants.items())
        return ", ".join(chain([text], variants))


@takes(Shape)
def _add(variant: type[Shape]) -> None:
    """A variant from elsewhere becomes another base, the first, as if the list above began with it."""
    new = {name: field for name, field in variant.model_fields.items() if name not in Shape.model_fields}
    if taken := new.keys() & BertConfig.model_fields.keys():
        raise UserError(f"{variant.__name__}.{min(taken)}: model.{min(taken)} is there already; give it another name")
    BertConfig.__bases__ = (variant, *BertConfig.__bases__)
    BertConfig.model_fields.update(new)
    BertConfig.model_rebuild(force=True)


def _in_words(value: Any) -> str:
    """A field's value without the punctuation of Python."""
    if isinstance(value, tuple):
        return " ".join(_in_words(item) for item in value)
    return str(value)
