"""BERT's relatives in transformers, renamed into BERT: RoBERTa, DistilBERT and ALBERT.

Each function takes the content of `config.json` and the tensors of one model, and gives what a BERT of transformers
with the same function would have there. What a family has beyond BERT is given as fields of BertConfig.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from model.errors import UserError


class AsBert(NamedTuple):
    settings: dict[str, Any]
    """config.json in the words of BertConfig of transformers."""
    state: dict[str, Tensor]
    fields: dict[str, Any]
    """Fields of our BertConfig that BERT's config.json has no words for."""


def roberta(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> AsBert:
    """RoBERTa, XLM-R and CamemBERT (Liu et al. 2019): positions count from pad_token_id + 1, and nothing before that
    row of the table is ever read."""
    first = settings.get("pad_token_id", 1) + 1
    renamed = _rename(state, _encoder_prefix("roberta"), ROBERTA_HEAD)
    table = "bert.embeddings.position_embeddings.weight"
    if table in renamed:
        renamed[table] = renamed[table][first:]
    length = settings.get("max_position_embeddings", 512) - first
    return AsBert({**settings, "model_type": "bert", "max_position_embeddings": length}, renamed, {})


def distilbert(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> AsBert:
    """DistilBERT (Sanh et al. 2019): no token types, which a table of one row of zeros computes."""
    renamed = _rename(state, DISTILBERT_ENCODER, DISTILBERT_HEAD)
    words = renamed.get("bert.embeddings.word_embeddings.weight")
    if words is not None:
        renamed["bert.embeddings.token_type_embeddings.weight"] = words.new_zeros(1, words.shape[1])
    words_of = {bert: settings[name] for name, bert in DISTILBERT_SETTINGS.items() if name in settings}
    return AsBert({"model_type": "bert", "type_vocab_size": 1, "layer_norm_eps": 1e-12, **words_of}, renamed, {})


def albert(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> AsBert:
    """ALBERT (Lan et al. 2020): layers in groups that share a block, and narrow word embeddings."""
    if settings.get("inner_group_num", 1) != 1:
        raise UserError(
            f"inner_group_num {settings['inner_group_num']} cannot be imported: only 1, one block in each group"
        )
    num_layers, num_groups = settings.get("num_hidden_layers", 12), settings.get("num_hidden_groups", 1)
    sharing = [int(layer / (num_layers / num_groups)) for layer in range(num_layers)]
    renamed = _rename(state, ALBERT_ENCODER, ALBERT_HEAD)
    group = re.compile(r"^bert\.group\.(\d+)\.")
    placed = {
        group.sub(lambda found: f"bert.encoder.layer.{sharing.index(int(found[1]))}.", name): tensor
        for name, tensor in renamed.items()
    }
    fields = {"sharing": sharing, "embedding_size": settings.get("embedding_size", 128)}
    return AsBert({**ALBERT_DEFAULTS, **settings, "model_type": "bert"}, placed, fields)


FAMILIES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], AsBert]] = {
    "roberta": roberta,
    "xlm-roberta": roberta,
    "camembert": roberta,
    "distilbert": distilbert,
    "albert": albert,
}
"""By the `model_type` of config.json."""

Renaming = tuple[tuple[str, str], ...]
"""(pattern, replacement), the first that matches from the start of a name."""

ROBERTA_HEAD: Renaming = (
    (r"lm_head\.dense\.", "cls.predictions.transform.dense."),
    (r"lm_head\.layer_norm\.", "cls.predictions.transform.LayerNorm."),
    (r"lm_head\.decoder\.", "cls.predictions.decoder."),
    (r"lm_head\.bias$", "cls.predictions.bias"),
)
_LAYER = r"(?:distilbert\.)?transformer\.layer\.(\d+)\."
DISTILBERT_ENCODER: Renaming = (
    (r"(?:distilbert\.)?embeddings\.", "bert.embeddings."),
    (_LAYER + r"attention\.q_lin\.", r"bert.encoder.layer.\1.attention.self.query."),
    (_LAYER + r"attention\.k_lin\.", r"bert.encoder.layer.\1.attention.self.key."),
    (_LAYER + r"attention\.v_lin\.", r"bert.encoder.layer.\1.attention.self.value."),
    (_LAYER + r"attention\.out_lin\.", r"bert.encoder.layer.\1.attention.output.dense."),
    (_LAYER + r"sa_layer_norm\.", r"bert.encoder.layer.\1.attention.output.LayerNorm."),
    (_LAYER + r"ffn\.lin1\.", r"bert.encoder.layer.\1.intermediate.dense."),
    (_LAYER + r"ffn\.lin2\.", r"bert.encoder.layer.\1.output.dense."),
    (_LAYER + r"output_layer_norm\.", r"bert.encoder.layer.\1.output.LayerNorm."),
)
DISTILBERT_HEAD: Renaming = (
    (r"vocab_transform\.", "cls.predictions.transform.dense."),
    (r"vocab_layer_norm\.", "cls.predictions.transform.LayerNorm."),
    (r"vocab_projector\.", "cls.predictions.decoder."),
)
DISTILBERT_SETTINGS = {
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    **{name: name for name in ("vocab_size", "max_position_embeddings", "initializer_range", "tie_word_embeddings")},
}
_GROUP = r"(?:albert\.)?encoder\.albert_layer_groups\.(\d+)\.albert_layers\.0\."
ALBERT_ENCODER: Renaming = (
    (r"(?:albert\.)?embeddings\.", "bert.embeddings."),
    (r"(?:albert\.)?encoder\.embedding_hidden_mapping_in\.", "bert.encoder.embedding_hidden_mapping_in."),
    (_GROUP + r"attention\.(query|key|value)\.", r"bert.group.\1.attention.self.\2."),
    (_GROUP + r"attention\.(dense|LayerNorm)\.", r"bert.group.\1.attention.output.\2."),
    (_GROUP + r"ffn\.", r"bert.group.\1.intermediate.dense."),
    (_GROUP + r"ffn_output\.", r"bert.group.\1.output.dense."),
    (_GROUP + r"full_layer_layer_norm\.", r"bert.group.\1.output.LayerNorm."),
    (r"(?:albert\.)?pooler\.", "bert.pooler.dense."),
)
ALBERT_HEAD: Renaming = (
    (r"predictions\.dense\.", "cls.predictions.transform.dense."),
    (r"predictions\.LayerNorm\.", "cls.predictions.transform.LayerNorm."),
    (r"predictions\.decoder\.", "cls.predictions.decoder."),
    (r"predictions\.bias$", "cls.predictions.bias"),
    (r"sop_classifier\.classifier\.", "cls.seq_relationship."),
)
ALBERT_DEFAULTS = {"hidden_act": "gelu_new", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Where transformers' AlbertConfig differs from BertConfig and config.json leaves a value out."""


def _encoder_prefix(family: str) -> Renaming:
    return ((rf"{family}\.", "bert."), (r"(?=(?:embeddings|encoder|pooler)\.)", "bert."))


def _rename(state: Mapping[str, Tensor], *renamings: Renaming) -> dict[str, Tensor]:
    """Names that match nothing stay, and are then found to be unused."""
    renamed = {}
    for name, tensor in state.items():
        pairs = ((re.match(pattern, name), pattern, replacement) for each in renamings for pattern, replacement in each)
        _, pattern, replacement = next((pair for pair in pairs if pair[0]), (None, "", ""))
        renamed[re.sub(pattern, replacement, name, count=1) if pattern else name] = tensor
    return renamed
