"""The shape of the model: everything that decides which parameters exist and what is computed from them."""

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import UserError, nearest
from model.variants.compatibility import contradictions
from model.variants.settings import Count, LayerDrop, MaskedUnits, Slimming

VOCABULARY_MULTIPLE = 128
"""The word table is padded to this multiple under every tensor-parallel size: the size never changes the shape."""

LOW_RANK_LINEARS = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "feedforward.input",
    "feedforward.output",
    "mlm.transform",
)
"""Linear layers that can have low rank: in every block, or the one of that name."""

Probability = Annotated[float, Field(ge=0, lt=1)]

PRESETS: dict[str, dict] = {
    "tiny": dict(layers=2, hidden=128, heads=2, ffn=512),
    "mini": dict(layers=4, hidden=256, heads=4, ffn=1024),
    "small": dict(layers=4, hidden=512, heads=8, ffn=2048),
    "medium": dict(layers=8, hidden=512, heads=8, ffn=2048),
    "base": dict(layers=12, hidden=768, heads=12, ffn=3072),
    "large": dict(layers=24, hidden=1024, heads=16, ffn=4096),
}
BERT_VOCABULARY = 30_522


class PlainBert(BaseModel):
    """The fields of BertConfig that a plain BERT needs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layers: Count
    hidden: Count
    heads: Count | tuple[Count, ...]
    """Attention heads, for all layers or for each."""
    head_dim: Count = 0
    """Width of one head. Left out: hidden / heads (of the widest layer)."""
    ffn: Count | tuple[Count, ...]
    """Inner width of the feed-forward network, for all layers or for each."""
    vocab_size: Count
    """Entries of the tokenizer's vocabulary, without padding."""
    max_positions: Count = 512
    type_vocab: Count = 2
    norm: Literal["post", "pre"] = "post"
    """`post`: LayerNorm after each residual sum, as in BERT. `pre`: before each branch, as in Megatron (no embedding
    norm, a final norm)."""
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    hidden_dropout: Probability = 0.1
    attention_dropout: Probability = 0.1
    norm_eps: Annotated[float, Field(gt=0)] = 1e-12
    initializer_std: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of fresh weights. Left out: 0.02 at hidden 768, scaled by 1/sqrt(hidden)."""
    position_init: Literal["normal", "sinusoidal"] = "normal"
    """`sinusoidal`: the learned position table starts as sinusoids, which shortens the bag-of-words plateau."""
    attention_init: Literal["independent", "aligned", "neighbours"] = "independent"
    """`aligned`: each key projection starts equal to its query projection, so that attention starts by similarity.
    `neighbours`: besides, each head starts by looking one token to the left, one to the right, two to the left, ...
    (by sinusoidal positions): no bag-of-words plateau, and seeds differ much less."""
    output_init: Literal["equal", "scaled"] = "equal"
    """`scaled`: what each layer adds to the sum starts smaller, by 1/sqrt(2 layers), as in Megatron-LM; without it a
    small model of several layers learns more slowly than one layer alone."""
    sharing: Count | tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Which block each layer uses. An integer A: layer i uses block i mod A. Left out: each layer has its own."""
    sentence_head: bool = True
    """The pooler and a two-way classifier on [CLS] for sentence pairs (NSP or SOP)."""
    heads_multiple: Count = 1
    """Numbers of heads are rounded to the nearest multiple of this, never below one multiple (for uneven layers)."""
    ffn_multiple: Count = 1
    """The same for FFN widths."""


class BertConfig(PlainBert):
    """One BERT shape. Frozen, and canonical: two configs of the same model compare equal.

    A *layer* is a step of the computation; a *block* is a set of parameters. Layers that share a block use it in turn.
    The fields below are variants of BERT, off by default. Off costs nothing: a plain model runs the same operations.
    """

    attention_bias: bool = True
    """Biases of the query, key, value and output projections."""
    ffn_bias: bool = True
    """Biases of the feed-forward network's two layers."""
    embedding_size: Count | None = None
    """Width of the embedding tables and of the tied decoder, projected to hidden (ALBERT). Left out: hidden."""
    attention: Literal["softmax", "elu", "relu", "favor"] = "softmax"
    """`softmax`, or a kernel whose cost is linear in the sequence: elu + 1, relu, or FAVOR+ random features."""
    kernel_features: Count | None = None
    """Random features of each head for `favor`. Left out: twice head_dim."""
    light_layers: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Layers without query and key, which reuse the attention map of the layer below (CompoundGrow)."""
    pool_window: Count = 1
    """Context tokens pooled into one before the first layer (CompoundGrow takes 2); masked tokens and [CLS] are not."""
    frozen_layers: Annotated[int, Field(ge=0)] = 0
    """So many of the lowest layers, and the embeddings, are not trained (MSLT). The decoder is the word table, so it is
    frozen with them; the rest of the heads is trained."""
    layer_drop: LayerDrop | None = None
    """Progressive layer dropping (PLD): `{keep: 0.5, gamma: 0.001}`. Pre-LN only."""
    sub_models: Count | None = None
    """Each step runs only the lowest k, 2k, 3k, ... layers, drawn anew, and trains the top k of these (bert2BERT: 3).
    Left out: all of them."""
    slimming: Slimming | None = None
    """Learned coefficients on heads and FFN units with an L1 penalty (EarlyBERT): `{heads: 0.0001, ffn: 0.0001}`."""
    masked: MaskedUnits | None = None
    """New units that fade in (MSG), told by the numbers of old ones: `{hidden: 512, ffn: 2048, steps: 5000}`."""
    low_rank: tuple[tuple[Literal[LOW_RANK_LINEARS], Count], ...] = ()  # type: ignore[valid-type]
    """Linear layers kept as products W = up down, by name, each with its rank: `{feedforward.input: 64}`."""

    def __init__(self, **values: Any):
        """Raises UserError for a shape that contradicts itself, as it is; pydantic would wrap it."""
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
        return cls(**{"vocab_size": BERT_VOCABULARY, **PRESETS[name], **overrides})

    @model_validator(mode="before")
    @classmethod
    def _equal_models_are_equal(cls, values: Any) -> Any:
        try:
            return cls._canonical(values) if isinstance(values, dict) else values
        except TypeError:  # words where numbers belong: the fields say which
            return values

    @staticmethod
    def _canonical(values: dict[str, Any]) -> dict[str, Any]:
        values = dict(values)
        for field in ("heads", "ffn", "sharing"):
            if isinstance(values.get(field), list):
                values[field] = tuple(values[field])
        for field in ("heads", "ffn"):
            multiple = values.get(f"{field}_multiple", 1)
            widths = values.get(field)
            if isinstance(multiple, int) and multiple > 1 and widths:
                each = [
                    round_to_multiple(width, multiple) for width in (widths if isinstance(widths, tuple) else [widths])
                ]
                widths = values[field] = tuple(each) if isinstance(widths, tuple) else each[0]
            if isinstance(widths, tuple) and len(widths) == values.get("layers") and len(set(widths)) == 1:
                values[field] = widths[0]
        if isinstance(values.get("low_rank"), dict):
            values["low_rank"] = tuple(sorted(values["low_rank"].items()))
        if isinstance(values.get("light_layers"), list | tuple):
            values["light_layers"] = tuple(sorted(set(values["light_layers"])))
        if values.get("embedding_size") == values.get("hidden"):
            values["embedding_size"] = None
        layers, sharing = values.get("layers"), values.get("sharing")
        if isinstance(sharing, tuple) and sharing:
            cycle = max(sharing) + 1 if all(isinstance(block, int) for block in sharing) else 0
            if cycle and sharing == tuple(layer % cycle for layer in range(len(sharing))) and len(sharing) == layers:
                sharing = cycle
        if isinstance(sharing, int) and isinstance(layers, int) and sharing >= layers:
            sharing = None
        values["sharing"] = sharing
        if not values.get("head_dim") and isinstance(values.get("hidden"), int) and values.get("heads"):
            heads = values["heads"]
            widest = max(heads) if isinstance(heads, tuple) else heads
            if isinstance(widest, int) and widest > 0 and values["hidden"] % widest == 0:
                values["head_dim"] = values["hidden"] // widest
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "BertConfig":
        for contradiction in contradictions(self):
            raise UserError(contradiction)
        return self

    def replace(self, **changes) -> "BertConfig":
        """The same shape with some fields changed, validated again."""
        return BertConfig(**{**self.model_dump(), **changes})

    def layer_width(self, field: str, layer: int) -> int:
        widths = getattr(self, field)
        return widths[layer] if isinstance(widths, tuple) else widths

    def block_of(self, layer: int) -> int:
        if self.sharing is None:
            return layer
        return self.sharing[layer] if isinstance(self.sharing, tuple) else layer % self.sharing

    def layers_of(self, block: int) -> list[int]:
        """The layers that use a block, from the bottom up."""
        return [layer for layer in range(self.layers) if self.block_of(layer) == block]

    def block_heads(self, block: int) -> int:
        return self.layer_width("heads", self.layers_of(block)[0])

    def block_ffn(self, block: int) -> int:
        return self.layer_width("ffn", self.layers_of(block)[0])

    def is_light(self, block: int) -> bool:
        """Whether the block takes its attention map from the layer below."""
        return self.layers_of(block)[0] in self.light_layers

    def is_frozen(self, block: int) -> bool:
        return self.layers_of(block)[0] < self.frozen_layers

    def old_width(self, axis: str, block: int) -> int | None:
        """Of a block's heads or FFN units, how many were there before those that fade in; None: none fade in."""
        old = getattr(self.masked, axis, None)
        return old[self.layers_of(block)[0]] if isinstance(old, tuple) else old

    def linear_shape(self, name: str, block: int = 0) -> tuple[int, int]:
        """Outputs and inputs of a linear layer that can have low rank."""
        heads_width, ffn = self.block_heads(block) * self.head_dim, self.block_ffn(block)
        return {
            "attention.output": (self.hidden, heads_width),
            "feedforward.input": (ffn, self.hidden),
            "feedforward.output": (self.hidden, ffn),
            "mlm.transform": (self.embedding_width, self.hidden),
        }.get(name, (heads_width, self.hidden))

    def rank(self, name: str) -> int | None:
        """The rank of a linear layer, by its name inside the block or its whole name; None: full."""
        return dict(self.low_rank).get(name)

    @cached_property
    def num_kernel_features(self) -> int:
        """Features of each head in kernel attention."""
        return (self.kernel_features or 2 * self.head_dim) if self.attention == "favor" else self.head_dim

    @cached_property
    def num_sub_models(self) -> int:
        """How many depths there are to draw from."""
        return self.layers // self.sub_models if self.sub_models else 1

    @cached_property
    def embedding_width(self) -> int:
        return self.embedding_size or self.hidden

    @cached_property
    def num_blocks(self) -> int:
        return len({self.block_of(layer) for layer in range(self.layers)})

    @cached_property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @cached_property
    def std(self) -> float:
        return self.initializer_std or 0.02 * (768 / self.hidden) ** 0.5

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
        fields = {name: field for name, field in BertConfig.model_fields.items() if name not in PlainBert.model_fields}
        return {name: getattr(self, name) for name, field in fields.items() if getattr(self, name) != field.default}

    def summary(self) -> str:
        """The shape in a few words, for tables and logs."""

        def span(widths: int | tuple[int, ...]) -> str:
            return str(widths) if isinstance(widths, int) else f"{min(widths)}..{max(widths)}"

        text = f"{self.layers}x{self.hidden} heads {span(self.heads)} ffn {span(self.ffn)}"
        if self.sharing is not None:
            text += f" on {self.num_blocks} shared block{'s'[: self.num_blocks > 1]}"
        return ", ".join([text, *(f"{name} {_in_words(value)}" for name, value in self.variants.items())])


def _in_words(value: Any) -> str:
    """A field's value without the punctuation of Python."""
    if isinstance(value, tuple):
        return " ".join(_in_words(item) for item in value)
    return str(value)


def round_to_multiple(width: int, multiple: int) -> int:
    """The nearest multiple (halves up), at least one."""
    return max((2 * width + multiple) // (2 * multiple), 1) * multiple
