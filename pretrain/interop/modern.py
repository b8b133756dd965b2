"""ModernBERT and ESM-2 in transformers: which of our shapes they are, and their names and settings beside BERT's.

A tensor of theirs is first renamed into transformers' BERT (`huggingface.py`), in which a gate is `intermediate.gate`.
Some of theirs hold several of BERT's one after another: `Wqkv` query, key and value, `Wi` input and gate.

ModernBERT: Warner et al. 2024 (arXiv 2412.13663). ESM-2: Lin et al. 2022 (doi 10.1101/2022.07.20.500902).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.config import BertConfig
from model.errors import UserError
from model.fields import Flag
from pretrain.interop.families import AsBert

Names = Mapping[str, tuple[str, ...]]
"""{a module of theirs, # for the number of a layer: the modules of BERT whose tensors it holds, one after another}."""


@dataclass(frozen=True)
class ModernFamily:
    model_type: str
    architecture: str
    needs: Mapping[str, Any]
    """Fields of our shape, each with the one value that such models have."""
    told: tuple[str, ...]
    """Fields beyond a plain BERT for which its config.json has words."""
    names: Names
    settings: Callable[[BertConfig, str], dict[str, Any]]
    """The keys of config.json apart from the model type, given the name that the activation has there."""

    def plain(self, config: BertConfig) -> BertConfig:
        """The shape of this family that computes the same. Raises UserError, with the reason, if there is none."""
        config = config.without(Flag.PLAIN_AT_EXPORT).replace(**{field: getattr(config, field) for field in self.told})
        for field, value in self.needs.items():
            if getattr(config, field) != value:
                raise UserError(
                    f"{field} {getattr(config, field)}: the nearest model of transformers, {self.architecture}, has "
                    f"only {field} {value}; train that to the end instead"
                )
        for field in config.variants.keys() - self.needs.keys() - set(self.told):
            raise UserError(
                f"{field} {getattr(config, field)}: the nearest model of transformers, {self.architecture}, has no "
                "such thing; train to the end without it"
            )
        return config

    def from_bert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by BERT's names -> by theirs."""
        renamed: dict[str, Tensor] = {}
        for name in state:
            module, layer, kind = _split(name)
            theirs, parts = next(pair for pair in self.names.items() if module in pair[1])
            if module == parts[0]:
                renamed[_join(theirs, layer, kind)] = torch.cat([state[_join(part, layer, kind)] for part in parts])
        return renamed

    def to_bert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The other way. Names that match nothing stay, and are then found to be unused."""
        renamed: dict[str, Tensor] = {}
        for name, tensor in state.items():
            module, layer, kind = _split(name)
            if parts := self.names.get(module):
                renamed |= {
                    _join(part, layer, kind): held for part, held in zip(parts, tensor.chunk(len(parts)), strict=True)
                }
            else:
                renamed[name] = tensor
        return renamed


def _split(name: str) -> tuple[str, str, str]:
    """`model.layers.3.attn.Wo.weight` -> `model.layers.#.attn.Wo`, `3`, `weight`."""
    module, _, kind = name.rpartition(".")
    number = re.search(r"\.\d+\.", module)
    if number is None:
        return module, "", kind
    return module.replace(number[0], ".#.", 1), number[0].strip("."), kind


def _join(module: str, layer: str, kind: str) -> str:
    return f"{module.replace('#', layer)}.{kind}"


def _sizes(config: BertConfig) -> dict[str, Any]:
    """Settings that both families, and BERT, call the same."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn,
        "max_position_embeddings": config.max_positions,
        "initializer_range": config.std,
    }


# ---- ModernBERT ----


def _modernbert_settings(config: BertConfig, activation: str) -> dict[str, Any]:
    local = config.local_attention
    rope = {"rope_type": "default", "rope_theta": config.rotary_theta}
    local_rope = {**rope, "rope_theta": (local and local.theta) or config.rotary_theta}
    return {
        **_sizes(config),
        "hidden_activation": activation,
        "classifier_activation": activation,
        "norm_eps": config.norm_eps,
        "norm_bias": config.norm_bias,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.ffn_bias,
        "classifier_bias": config.head_bias,
        "decoder_bias": True,
        "embedding_dropout": config.hidden_dropout,
        "mlp_dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "layer_types": [_LAYER_TYPES[config.is_local(layer)] for layer in range(config.layers)],
        **({"local_attention": local.window} if local else {}),
        "rope_parameters": {"full_attention": rope, "sliding_attention": local_rope},
        # Their defaults are ModernBERT's own, beyond most vocabularies.
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
    }


def modernbert(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> AsBert:
    settings = {**_MODERNBERT_DEFAULTS, **settings}
    if settings["hidden_activation"] != settings["classifier_activation"]:
        raise UserError(
            f"classifier_activation {settings['classifier_activation']} cannot be imported with hidden_activation "
            f"{settings['hidden_activation']}: here the head and the layers have one activation"
        )
    renamed = MODERNBERT.to_bert(
        {
            "cls.predictions.decoder.weight" if name == "decoder.weight" else _with_prefix("model.", name): tensor
            for name, tensor in state.items()
        }
    )
    if not settings["decoder_bias"] and "cls.predictions.transform.dense.weight" in renamed:
        renamed["cls.predictions.bias"] = torch.zeros(settings["vocab_size"])
    words = {
        "model_type": "megatron-bert",
        "hidden_act": settings["hidden_activation"],
        "hidden_dropout_prob": settings["embedding_dropout"],
        "attention_probs_dropout_prob": settings["attention_dropout"],
        "layer_norm_eps": settings["norm_eps"],
        "type_vocab_size": 0,
    }
    fields = {
        "rotary_theta": _theta(settings, "full_attention"),
        "local_attention": _local_attention(settings),
        "attention_bias": settings["attention_bias"],
        "ffn_bias": settings["mlp_bias"],
        "norm_bias": settings["norm_bias"],
        "head_bias": settings["classifier_bias"],
    }
    return AsBert({**settings, **words}, renamed, {**MODERNBERT.needs, **fields})


def _theta(settings: Mapping[str, Any], kind: str) -> float:
    """The base of the rotary angles in layers of a kind, in the words of any version of transformers."""
    rope = (settings.get("rope_parameters") or {}).get(kind) or {}
    if settings.get("rope_scaling") or rope.get("rope_type", "default") != "default":
        raise UserError("rotary angles that are scaled (rope_type) cannot be imported, only those of rope_type default")
    old_name, default = _OLD_THETAS[kind]
    theta = rope.get("rope_theta") or settings.get(old_name, default)
    if theta is None and kind == "sliding_attention":
        return _theta(settings, "full_attention")  # null there: the same in all layers
    return theta or default


def _local_attention(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Which layers are local, and what these see; None: none is."""
    num_layers, every = settings["num_hidden_layers"], settings.get("global_attn_every_n_layers", 3)
    kinds = settings.get("layer_types") or [_LAYER_TYPES[layer % every > 0] for layer in range(num_layers)]
    if "sliding_attention" not in kinds:
        return None
    every = next((layer for layer in range(1, num_layers) if kinds[layer] == "full_attention"), num_layers)
    if kinds != [_LAYER_TYPES[layer % every > 0] for layer in range(num_layers)]:
        raise UserError(
            "layer_types cannot be imported where global layers (full_attention) do not follow at one distance, from "
            "the first layer on"
        )
    local, whole = (_theta(settings, _LAYER_TYPES[is_local]) for is_local in (True, False))
    theta = {"theta": local} if local != whole else {}
    return {"window": settings["local_attention"], "global_every": every, **theta}


_OLD_THETAS = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}
_LAYER_TYPES = {False: "full_attention", True: "sliding_attention"}
_MODERNBERT_DEFAULTS: dict[str, Any] = {
    **dict(hidden_activation="gelu", classifier_activation="gelu", norm_eps=1e-5, local_attention=128),
    **dict(norm_bias=False, attention_bias=False, mlp_bias=False, classifier_bias=False, decoder_bias=True),
    **dict(embedding_dropout=0.0, attention_dropout=0.0, num_hidden_layers=22, max_position_embeddings=8192),
}
_LAYER = "bert.encoder.layer.#."
MODERNBERT = ModernFamily(
    model_type="modernbert",
    architecture="ModernBertForMaskedLM",
    needs=dict(
        **dict(positions="rotary", gated=True, norm="pre", norm_type="layer", embedding_norm=True, first_norm=False),
        **dict(type_vocab=0, sentence_head=False),
    ),
    told=("rotary_theta", "local_attention", "attention_bias", "ffn_bias", "norm_bias", "head_bias"),
    names={
        "model.embeddings.tok_embeddings": ("bert.embeddings.word_embeddings",),
        "model.embeddings.norm": ("bert.embeddings.LayerNorm",),
        "model.layers.#.attn_norm": (_LAYER + "attention.ln",),
        "model.layers.#.attn.Wqkv": tuple(f"{_LAYER}attention.self.{part}" for part in ("query", "key", "value")),
        "model.layers.#.attn.Wo": (_LAYER + "attention.output.dense",),
        "model.layers.#.mlp_norm": (_LAYER + "ln",),
        "model.layers.#.mlp.Wi": (_LAYER + "intermediate.dense", _LAYER + "intermediate.gate"),
        "model.layers.#.mlp.Wo": (_LAYER + "output.dense",),
        "model.final_norm": ("bert.encoder.ln",),
        "head.dense": ("cls.predictions.transform.dense",),
        "head.norm": ("cls.predictions.transform.LayerNorm",),
        "decoder": ("cls.predictions",),
    },
    settings=_modernbert_settings,
)


# ---- ESM-2 ----


def _esm_settings(config: BertConfig, activation: str) -> dict[str, Any]:
    return {
        **_sizes(config),
        "hidden_act": activation,
        "position_embedding_type": "rotary",
        "rope_theta": config.rotary_theta,
        "layer_norm_eps": config.norm_eps,
        "hidden_dropout_prob": config.hidden_dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "emb_layer_norm_before": config.embedding_norm,
        "token_dropout": config.token_dropout is not None,
        "mask_token_id": config.token_dropout.mask_token if config.token_dropout else None,
        "pad_token_id": 1,
    }


def esm(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> AsBert:
    """Its head for contacts is not used."""
    if settings.get("position_embedding_type", "absolute") != "rotary":
        raise UserError(
            f"position_embedding_type {settings.get('position_embedding_type', 'absolute')!r} of an ESM cannot be "
            "imported, only 'rotary' (ESM-2)"
        )
    words = {
        "model_type": "megatron-bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "layer_norm_eps": settings.get("layer_norm_eps", 1e-12),
        "type_vocab_size": 0,
    }
    token_dropout = {"mask_token": settings.get("mask_token_id")} if settings.get("token_dropout") else None
    fields = {
        "embedding_norm": bool(settings.get("emb_layer_norm_before")),
        "rotary_theta": settings.get("rope_theta", 10_000.0),
        "token_dropout": token_dropout,
    }
    state = {
        _with_prefix("esm.", name).replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias"): tensor
        for name, tensor in state.items()  # transformers itself saves a bare encoder with the names of 2018
        if not name.endswith("inv_freq")
    }
    needed = {field: value for field, value in ESM.needs.items() if field != "activation"}
    return AsBert({**settings, **words}, ESM.to_bert(state), {**needed, **fields})


def _with_prefix(prefix: str, name: str) -> str:
    """A bare encoder's names lack the prefix that they have in a model with a head."""
    return prefix + name if name.startswith(("embeddings.", "encoder.", "layers.", "final_norm.", "pooler.")) else name


ESM = ModernFamily(
    model_type="esm",
    architecture="EsmForMaskedLM",
    needs=dict(
        **dict(positions="rotary", gated=False, norm="pre", norm_type="layer", first_norm=True, activation="gelu"),
        **dict(type_vocab=0, sentence_head=False),
    ),
    told=("rotary_theta", "embedding_norm", "token_dropout"),
    names={
        "esm.embeddings.word_embeddings": ("bert.embeddings.word_embeddings",),
        "esm.embeddings.layer_norm": ("bert.embeddings.LayerNorm",),
        **{
            f"esm.encoder.layer.#.{module}": (_LAYER + module,)
            for module in (
                *(f"attention.self.{part}" for part in ("query", "key", "value")),
                *("attention.output.dense", "intermediate.dense", "output.dense"),
            )
        },
        "esm.encoder.layer.#.attention.LayerNorm": (_LAYER + "attention.ln",),
        "esm.encoder.layer.#.LayerNorm": (_LAYER + "ln",),
        "esm.encoder.emb_layer_norm_after": ("bert.encoder.ln",),
        "lm_head.dense": ("cls.predictions.transform.dense",),
        "lm_head.layer_norm": ("cls.predictions.transform.LayerNorm",),
        "lm_head": ("cls.predictions",),
        "lm_head.decoder": ("cls.predictions.decoder",),
    },
    settings=_esm_settings,
)


def modern_family(config: BertConfig) -> ModernFamily | None:
    """The family that a shape is to be exported as; None: BERT."""
    if config.positions == "learned":
        return None
    return MODERNBERT if config.gated else ESM
