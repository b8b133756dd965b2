"""The names and shapes of Hugging Face transformers, and export to it. `huggingface_import.py` goes the other way.

post-LN: `BertForPreTraining`, `BertForMaskedLM` (no sentence head); for import also `BertModel` and BERT's
         relatives (`families.py`)
pre-LN:  `MegatronBertForPreTraining`, `MegatronBertForMaskedLM`
rotary:  `ModernBertForMaskedLM` if gated, otherwise `EsmForMaskedLM` (`modern.py`)

A conversion renames tensors and merges or splits their axes; the tables below are all there is to it. Weights are
logical: `{name of the parameter table: tensor of spec.shape}`, and on the other side `{name in transformers: tensor}`.

transformers gives all layers the same width (its `pruned_heads` are gone since version 5). A narrower layer is padded
with heads and units of zeros, which is exact and stays so: a unit with zero weights on both sides outputs zero, passes
no gradient and receives none. `config.json` also says which shape was exported, so that importing finds it again.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.config import BertConfig
from model.errors import UserError
from model.fields import Flag
from model.parameters import ParameterSpec, parameter_table
from pretrain.data.objective import Objective
from pretrain.interop.modern import modern_family

NAMES = {
    "embeddings.word": "bert.embeddings.word_embeddings",
    "embeddings.position": "bert.embeddings.position_embeddings",
    "embeddings.token_type": "bert.embeddings.token_type_embeddings",
    "embeddings.norm": "bert.embeddings.LayerNorm",
    "embeddings.projection": "bert.encoder.embedding_hidden_mapping_in",
    "final_norm": "bert.encoder.ln",
    "pooler": "bert.pooler.dense",
    "mlm": "cls.predictions",
    "mlm.transform": "cls.predictions.transform.dense",
    "mlm.norm": "cls.predictions.transform.LayerNorm",
    "sentence": "cls.seq_relationship",
}
BLOCK_NAMES = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "feedforward.input": "intermediate.dense",
    "feedforward.gate": "intermediate.gate",
    "feedforward.output": "output.dense",
}
NORM_NAMES = {
    "post": {"attention.norm": "attention.output.LayerNorm", "feedforward.norm": "output.LayerNorm"},
    "pre": {"attention.norm": "attention.ln", "feedforward.norm": "ln"},
}
ARCHITECTURES = {"post": ("bert", "Bert"), "pre": ("megatron-bert", "MegatronBert")}
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu"}
FIELDS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_positions": "max_position_embeddings",
    "type_vocab": "type_vocab_size",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "norm_eps": "layer_norm_eps",
}
EXPORTED_SHAPE = "espalier"
"""The key of `config.json` that holds our own config, which transformers keeps and does not read."""
OBJECTIVE = "espalier_objective"
"""The key of `config.json` with the objective of the last stage, where that is not `mlm`."""
MARK = {"written_by": "espalier"}
"""In the header of `model.safetensors`, which transformers does not keep."""


def export_model(
    directory: str | Path,
    config: BertConfig,
    weights: dict[str, Tensor],
    special: Mapping[str, int] | None = None,
    objective: Objective = "mlm",
) -> None:
    """Writes `config.json` and `model.safetensors`, which `from_pretrained(directory)` opens.

    special: ids of special tokens by their names in `config.json`, for models that are told of them there. objective:
    of the last stage. Raises UserError for a shape that transformers has no model for.
    """
    directory, config = Path(directory), with_heads_on_top(config)
    told = special if special and modern_family(config) else {}
    settings = {**export_config(config), **told, EXPORTED_SHAPE: config.model_dump(mode="json")}
    settings |= {OBJECTIVE: objective} if objective != "mlm" else {}
    state = export_weights(config, weights)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    save_file(state, directory / "model.safetensors", metadata={"format": "pt", **MARK})
    shutil.copymode(directory / "config.json", directory / "model.safetensors")  # save_file lets only its owner read


def with_heads_on_top(config: BertConfig) -> BertConfig:
    """The shape without a sentence head that reads an inner layer, where transformers has none.

    Raises UserError for masked words that are predicted from an inner layer.
    """
    if config.words_from < config.layers:
        raise UserError(
            f"mlm_layer {config.mlm_layer}: transformers predicts masked words from the last of the {config.layers} "
            "layers; train a last stage with mlm_layer null"
        )
    is_inner = config.sentences_from < config.layers
    return config.replace(sentence_head=False, sentence_layer=None) if is_inner else config


def is_exported(directory: str | Path) -> bool:
    """Whether `export_model` wrote the weights there. Saved again after training, they lack the mark."""
    try:
        with safe_open(Path(directory) / "model.safetensors", "pt") as file:
            return MARK.items() <= (file.metadata() or {}).items()
    except (OSError, SafetensorError):
        return False


def exported_objective(directory: Path) -> Objective:
    """What the model in a folder was last trained to predict; `mlm` where `export_model` did not write its weights."""
    if not is_exported(directory):
        return "mlm"
    return json.loads((directory / "config.json").read_text(encoding="utf-8")).get(OBJECTIVE, "mlm")


def export_config(config: BertConfig) -> dict:
    """The content of `config.json`."""
    plain = plain_shape(config)
    if family := modern_family(config):
        told = family.settings(plain, ACTIVATIONS[config.activation])
        return {"architectures": [family.architecture], "model_type": family.model_type, **told, "dtype": "float32"}
    model_type, prefix = ARCHITECTURES[config.norm]
    return {
        "architectures": [f"{prefix}ForPreTraining" if config.sentence_head else f"{prefix}ForMaskedLM"],
        "model_type": model_type,
        **{theirs: getattr(plain, ours) for ours, theirs in FIELDS.items()},
        "hidden_act": ACTIVATIONS[config.activation],
        "initializer_range": config.std,
        "torch_dtype": "float32",
    }


def export_weights(config: BertConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`{name in transformers: tensor}`. The tied decoder is left out: transformers ties it again."""
    family, state = modern_family(config), weights_as_bert(config, weights)
    return family.from_bert(state) if family else state


def weights_as_bert(config: BertConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same by the names of transformers' BERT, whatever family it is."""
    plain = plain_shape(config)
    dtype = weights["embeddings.word.weight"].dtype
    state = {}
    for name, spec in parameter_table(plain).items():
        padded = torch.zeros(spec.shape, dtype=dtype)
        if name in weights:
            padded[corner(weights[name].shape)] = weights[name]
        for theirs in huggingface_names(plain, spec):
            # A separate tensor for each layer that shares a block: safetensors writes no tensor twice.
            state[theirs] = padded.reshape(merged_shape(spec)).clone()
    return state


def huggingface_names(config: BertConfig, spec: ParameterSpec) -> list[str]:
    """The names in transformers' BERT of one parameter: one for each layer that uses it."""
    module, kind = spec.local_name.rsplit(".", 1)
    if spec.block is None:
        return [f"{NAMES[module]}.{kind}"]
    name = (BLOCK_NAMES | NORM_NAMES[config.norm])[module]
    return [f"bert.encoder.layer.{layer}.{name}.{kind}" for layer in config.layers_of(spec.block)]


def merged_shape(spec: ParameterSpec) -> tuple[int, ...]:
    """transformers keeps heads and head_dim as one axis."""
    shape = list(spec.shape)
    for index, axis in enumerate(spec.axes):
        if axis.name == "heads":
            shape[index : index + 2] = [axis.size * spec.axes[index + 1].size]
    return tuple(shape)


def plain_shape(config: BertConfig) -> BertConfig:
    """The shape in transformers that computes the same: every layer as wide as the widest, all biases there.

    Raises UserError, with the reason, for a model that transformers has no architecture for.
    """
    if family := modern_family(config):
        config = family.plain(config)
    else:
        config = config.without(Flag.PLAIN_AT_EXPORT).replace(type_vocab=max(config.type_vocab, 1))
        for name, value in config.variants.items():
            raise UserError(
                f"{name} {value}: transformers has no such model to export to; train to the end as a plain BERT instead"
            )
    heads, ffn = (
        max((getattr(config, f"block_{field}")(b) for b in range(config.num_blocks)), default=getattr(config, field))
        for field in ("heads", "ffn")
    )
    if heads * config.head_dim > config.hidden or config.hidden % config.head_dim:
        raise UserError(
            f"heads {heads} x head_dim {config.head_dim} does not fit hidden {config.hidden}: transformers has only "
            "models whose heads share hidden between them"
        )
    heads = config.hidden // config.head_dim
    return config.replace(heads=heads, ffn=ffn, heads_multiple=1, ffn_multiple=1)


def corner(shape: Sequence[int]) -> tuple[slice, ...]:
    """The part of a padded tensor that is not padding."""
    return tuple(slice(size) for size in shape)
