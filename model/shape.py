"""The shape of a BERT: the fields of the plain model, what follows from them, and what a variant may answer instead.

A *layer* is a step of the computation; a *block* is a set of parameters. Layers that share a block use it in turn.

A variant is a class over `Shape` in `model/variants/`: it adds its fields and overrides some of the methods from
`contradictions` on, each by way of `super()`, so that several variants can answer together. `model/config.py` lists
the variants. Nothing here imports torch.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.canonical import canonical
from model.fields import Count, Flag, Index, Probability, ShareOf
from model.parameter_spec import VOCABULARY_MULTIPLE, ParameterSpec

MAX_LAYERS = 10_000
"""Far beyond any BERT: a larger number is a slip, and would take hours to work out."""

LowRankLinear = Literal[
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "feedforward.input",
    "feedforward.gate",
    "feedforward.output",
    "mlm.transform",
]
"""Linear layers that can have low rank: in every block, or the one of that name."""


class PlainBert(BaseModel):
    """The fields that a plain BERT needs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layers: Annotated[Index, Field(le=MAX_LAYERS), ShareOf("layers")]
    """Number of transformer layers. 0 is embeddings and heads alone, from which `fresh_layers` grows; `heads` and `ffn`
    are then those of the layers to come."""
    hidden: Annotated[Count, ShareOf("hidden")]
    """Hidden size: width of the residual stream, in units."""
    heads: Annotated[Count | tuple[Count, ...], ShareOf("heads")]
    """Attention heads per layer: one number for all layers, or a list with one for each."""
    head_dim: Count = 0
    """Units per head. Defaults to hidden / heads (of the widest layer). Give it if heads does not divide hidden."""
    ffn: Annotated[Count | tuple[Count, ...], ShareOf("ffn")]
    """Inner units of the feed-forward network: one number for all layers, or a list with one for each."""
    vocab_size: Count
    """Entries of the tokenizer's vocabulary, without padding."""
    max_positions: Count = 512
    """The longest sequence that the model can read, in tokens: rows of the position table, if it has one."""
    type_vocab: Index = 2
    """Number of token types: 2 tell the two sentences of a pair apart. 0 leaves their table out, as ModernBERT does."""
    norm: Literal["post", "pre"] = "post"
    """Where LayerNorm is applied. `post`: after each residual sum, as in BERT. `pre`: before each branch, as in
    Megatron (no embedding norm, a final norm). Use `pre` for deep models and high learning rates; some growth operators
    need it."""
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu"
    """Activation of the feed-forward network and the MLM head. `gelu` is exact; `gelu_tanh` is the approximation of the
    first BERT code."""
    hidden_dropout: Annotated[Probability, Flag.FREE] = 0.1
    """Dropout probability of the embeddings and of each branch's output. Use 0 if every example is seen only a few
    times."""
    attention_dropout: Annotated[Probability, Flag.FREE] = 0.1
    """Dropout probability of the attention map. 0 saves time and memory; kernel attention needs 0."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-12
    """Added to the variance in each LayerNorm. Change it only to match another model's checkpoint."""
    initializer_std: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of initial weights. Defaults to 0.02 at hidden 768, scaled by 1/sqrt(hidden)."""
    position_init: Literal["normal", "sinusoidal"] = "normal"
    """How the position table starts. It is learned in both cases; `sinusoidal` starts it as sinusoids, which shortens
    the bag-of-words plateau. Use that for small models and short runs."""
    attention_init: Literal["independent", "aligned", "neighbours"] = "independent"
    """How queries and keys start. `aligned`: each key projection equals its query projection, so that attention goes by
    similarity. `neighbours`: in addition, each head looks one token to the left, one to the right, two to the left, ...
    (needs sinusoidal positions). This avoids the bag-of-words plateau, and seeds differ much less."""
    output_init: Literal["equal", "scaled"] = "equal"
    """How output projections start. `scaled`: smaller by 1/sqrt(2 layers), as in Megatron-LM. Without it a small model
    of several layers learns more slowly than one layer alone."""
    sharing: Annotated[Count | tuple[Index, ...] | None, ShareOf("layers")] = None
    """Weight sharing: a list with the number of each layer's block, or an integer A: layer i uses block i mod A (1: all
    layers share one). By default each layer has its own."""
    sentence_head: bool = True
    """Include the pooler and a two-way classifier on [CLS], which `data.sentence_pairs` needs. Recipes without sentence
    pairs omit it by default."""
    heads_multiple: Annotated[Count, Flag.FREE] = 1
    """Round the heads of each layer to the nearest multiple of this, and to at least one multiple. Set it to the
    tensor-parallel ranks if pruning may leave other numbers."""
    ffn_multiple: Annotated[Count, Flag.FREE] = 1
    """The same for FFN units."""


class Shape(PlainBert):
    """A plain BERT, the options of its parts, and what follows from both."""

    attention_bias: Annotated[bool, Flag.PLAIN_AT_EXPORT] = True
    """Give the query, key, value and output projections biases."""
    ffn_bias: Annotated[bool, Flag.PLAIN_AT_EXPORT] = True
    """Give the two layers of the feed-forward network biases."""
    embedding_size: Annotated[Count | None, ShareOf("hidden")] = None
    """Units of the embedding tables and of the tied decoder, projected to hidden (ALBERT). Defaults to hidden. A
    smaller size saves parameters if the vocabulary is large."""
    low_rank: Annotated[
        tuple[tuple[LowRankLinear, Count], ...],
        ShareOf("hidden"),
    ] = ()
    """Linear layers replaced by the product of two smaller ones, W = up down, each with its rank:
    `{feedforward.input: 64}`. A low rank saves parameters and FLOPs; `densify` restores full matrices."""

    positions: Literal["learned", "rotary", "none"] = "learned"
    """How the model knows the order of tokens. `learned`: a table of positions, as in BERT. `rotary`: queries and keys
    are turned by their positions (RoPE), as in ModernBERT and ESM-2. `none`: it does not."""
    rotary_theta: Annotated[float, Field(gt=1), Flag.FREE] = 10_000.0
    """Base of the rotary angles. A larger one tells distant tokens apart: raise it with `max_positions` to train on
    longer rows. ModernBERT uses 160,000."""
    gated: bool = False
    """Multiply the activated units of the feed-forward network by a second projection of its input. With `activation:
    gelu` this is GeGLU, with `silu` SwiGLU. It has half as many matrices again: use 2/3 of the ffn for equal cost."""
    norm_type: Literal["layer", "rms"] = "layer"
    """`layer`: LayerNorm. `rms`: RMSNorm, which does not subtract the mean and has no bias."""
    norm_bias: Annotated[bool, Flag.PLAIN_AT_EXPORT] = True
    """Give each LayerNorm a bias."""
    head_bias: Annotated[bool, Flag.PLAIN_AT_EXPORT] = True
    """Give the transform layer of the MLM head a bias. (The decoder always has one.)"""
    embedding_norm: bool = False
    """With norm pre: normalise the embeddings, too. With norm post they always are."""
    first_norm: bool = True
    """The attention norm of the first layer. `false` leaves it out, as in ModernBERT: the embedding norm is enough."""

    # --- what follows from the fields ---------------------------------------------------------------------------------

    def layer_width(self, field: str, layer: int) -> int:
        widths = getattr(self, field)
        return widths[layer] if isinstance(widths, tuple) else widths

    def block_of(self, layer: int) -> int:
        if self.sharing is None:
            return layer
        return self.sharing[layer] if isinstance(self.sharing, tuple) else layer % self.sharing

    def layers_of(self, block: int) -> list[int]:
        """The layers that use a block, from the bottom up."""
        return self._layers_by_block.get(block, [])

    @cached_property
    def _layers_by_block(self) -> dict[int, list[int]]:
        """Worked out once: the costs of a deep model ask for it for every parameter."""
        layers: dict[int, list[int]] = {}
        for layer in range(self.layers):
            layers.setdefault(self.block_of(layer), []).append(layer)
        return layers

    def block_heads(self, block: int) -> int:
        return self.layer_width("heads", self.layers_of(block)[0])

    def block_ffn(self, block: int) -> int:
        return self.layer_width("ffn", self.layers_of(block)[0])

    @property
    def normalises_embeddings(self) -> bool:
        return self.norm == "post" or self.embedding_norm

    def normalises_attention(self, block: int) -> bool:
        """Whether a block's attention has a norm: all have, but for a first layer without one."""
        return self.first_norm or 0 not in self.layers_of(block)

    @property
    def inner_projections(self) -> tuple[str, ...]:
        """The linear layers that lead to the inner units of the feed-forward network."""
        return ("input", "gate") if self.gated else ("input",)

    def inner_elements(self, block: int) -> int:
        """Elements that the inner units of one token keep: each before and after its activation; gated ones also their
        gate, and the product."""
        return (4 if self.gated else 2) * self.block_ffn(block)

    def rank(self, linear: str) -> int | None:
        """The rank of a linear layer, by its name inside the block or its whole name; None: full."""
        return next((rank for name, rank in self.low_rank if name == linear), None)

    @cached_property
    def embedding_width(self) -> int:
        return self.embedding_size or self.hidden

    @cached_property
    def num_blocks(self) -> int:
        return len(self._layers_by_block)

    @cached_property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @cached_property
    def std(self) -> float:
        return self.initializer_std or 0.02 * (768 / self.hidden) ** 0.5

    # --- what variants may answer -------------------------------------------------------------------------------------

    @classmethod
    def canonical(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The same shape, before its types are checked, written in the one way that makes equal models compare equal.
        Raises TypeError for values of the wrong types."""
        return canonical(values)

    @property
    def unfinished(self) -> str | None:
        """What an earlier change of shape has left to finish before the next one, in words; None: nothing."""
        return None

    def restarts_fading(self, before: "Shape") -> bool:
        """Whether masks on new units start from 0 when a model of shape `before` takes this one."""
        return False

    # --- what goes with what ------------------------------------------------------------------------------------------

    def uses(self, key: str) -> bool:
        """Whether a field, or a setting inside one (`masked.layers`), differs from its default."""
        field, _, inner = key.partition(".")
        value = getattr(self, field)
        if inner and value is not None:
            return getattr(value, inner) != type(value).model_fields[inner].default
        return value != type(self).model_fields[field].default

    def clashes(self, key: str, others: Mapping[str, str]) -> Iterator[str]:
        """A line for each other setting in use that does not go together with `key`: {setting: the reason}."""
        for other, reason in others.items():
            if self.uses(key) and self.uses(other):
                yield f"{key} and {other} do not go together: {reason}; leave one of them out"

    def idle_without_layers(self, key: str) -> Iterator[str]:
        """One line if `key` is set, but the model has no layers for it to apply to."""
        if not self.layers and self.uses(key):
            yield f"{key} is for layers, and there are 0; leave it out"

    def contradictions(self) -> Iterator[str]:
        """What is wrong with the variants of this shape, one line each, with what to do. (Those of the plain fields are
        in `model.consistency`.)"""
        yield from ()

    def refused_with(self) -> Mapping[str, str]:
        """Settings of a stage (`recompute`, `sequence_parallel`, `causal`) that this shape cannot train with, each with
        the line that says so to the user."""
        return {}

    # --- parameters ---------------------------------------------------------------------------------------------------

    def layer_kind(self, layer: int) -> dict[str, Any]:
        """By field, what layers that share a block must have in common."""
        kind = {"heads": self.layer_width("heads", layer), "ffn": self.layer_width("ffn", layer)}
        return kind if self.first_norm else kind | {"first_norm": layer == 0}

    def projections(self, block: int) -> tuple[str, ...]:
        """The projections of the tokens that a block's attention has."""
        return ("query", "key", "value")

    def added_parameters(self, module: str, block: int | None) -> Iterator[ParameterSpec]:
        """What a variant adds to a module: `attention` or `feedforward` of a block. They come before those of the
        module's own parts, as parameters that torch finds in the module itself."""
        yield from ()

    def is_trained(self, spec: ParameterSpec) -> bool:
        return True

    # --- layers -------------------------------------------------------------------------------------------------------

    @property
    def part_names(self) -> tuple[str, ...]:
        """The `model.variants.parts.Parts` of the active variants, each as `module:class`: by name, so that torch and
        their layers are imported only where a model is built."""
        return ()

    @property
    def attends_over_runs(self) -> bool:
        """Whether attention is one function of query, key and value whose rows are never divided: it needs no mask
        then, given a kernel that knows where segments begin."""
        return True

    # --- costs --------------------------------------------------------------------------------------------------------

    def num_tokens(self, layer: int, sequence: int, num_predictions: float) -> tuple[float, float]:
        """Of a row of `sequence` tokens, `num_predictions` of them masked: how many a layer computes, and how many it
        looks at."""
        return sequence, sequence

    def seen_keys(self, layer: int, keys: float) -> float:
        """Of the `keys` tokens that a layer looks at, how many each of its tokens sees."""
        return keys

    def mapped_keys(self, layer: int, keys: float) -> float:
        """For how many of them each of its tokens keeps entries of the attention map, where this is computed."""
        return keys

    def mixing_flops(self, block: int, queries: float, keys: float) -> float:
        """Products of tokens with each other in one row, forward: the attention map, and its use."""
        return 2 * self.map_flops(block, queries, keys)

    def map_flops(self, block: int, queries: float, keys: float) -> float:
        """One product over a whole attention map."""
        return 2 * queries * keys * self.block_heads(block) * self.head_dim

    def constant_product_flops(self, block: int, queries: float) -> float:
        """The part of `mixing_flops` that multiplies tokens by constants, which have no gradient."""
        return 0

    def run_share(self, layer: int) -> float:
        """The share of the steps in which a layer runs at all."""
        return 1

    def trained_share(self, layer: int) -> float:
        """The share of the steps in which a layer runs that train it too."""
        return 1

    def mixing_elements(self, block: int, keys: float, has_map: bool) -> float:
        """Elements that the attention of one token keeps for the backward pass: its projections and context, and what
        mixes it with `keys` tokens.

        has_map: softmax attention computes its map as a whole. Dropout then keeps a mask and the map before it as well.
        """
        heads = self.block_heads(block)
        row_of_the_map = heads * keys * (3 if self.attention_dropout else 1)
        return (len(self.projections(block)) + 1) * heads * self.head_dim + has_map * row_of_the_map
