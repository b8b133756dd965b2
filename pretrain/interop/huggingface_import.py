"""Import from Hugging Face transformers: a saved BERT, or one of its relatives, as our shape and our weights.

Every tensor of the file is used, or named to the user, or the model is refused: what it computes is kept.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from model.config import BertConfig
from model.errors import UserError
from model.initialize import initial_weight
from model.parameters import ParameterSpec, parameter_table
from pretrain.interop.families import FAMILIES as RELATIVES
from pretrain.interop.families import AsBert
from pretrain.interop.huggingface import (
    ACTIVATIONS,
    ARCHITECTURES,
    EXPORTED_SHAPE,
    FIELDS,
    corner,
    huggingface_names,
    merged_shape,
    plain_shape,
    weights_as_bert,
)
from pretrain.interop.modern import esm, modernbert

FAMILIES = {**RELATIVES, "modernbert": modernbert, "esm": esm}

ACTIVATION_OF = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_new": "gelu_tanh"}
HEADS = ("mlm", "pooler", "sentence")
"""Parts that a model may lack as a whole: they are then drawn afresh."""
DECODER = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Second names of one tensor, where the output layer is tied to the word embeddings as it is here."""
BUFFERS = ("position_ids", "token_type_ids")
"""Constants that older versions of transformers saved with the weights."""
MAX_REASON = 160
"""Characters of another library's message."""

Note = Callable[[str], None]
"""Takes a line about something that the user should know."""


def import_model(
    directory: str | Path, seed: int = 0, note: Note = lambda line: None, **overrides
) -> tuple[BertConfig, dict[str, Tensor]]:
    """The shape and the fp32 weights of a saved model, heads that it lacks freshly initialised from `seed`.

    `overrides` are fields of BertConfig that no weight depends on, or `sentence_head`. `note` is told which tensors of
    the file are not used and which heads are fresh. Raises UserError for a model that computes something else.
    """
    directory = Path(directory)
    _check_files(directory)
    with opening(directory):
        state = dict(load_file(directory / "model.safetensors"))
        settings = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("config.json holds no settings")
        _check_encoder(directory, settings)
        settings, state, fields = _as_bert(settings, state)
        exported = _exported_shape(settings, state)
        if exported is None:
            sentence_head = any("pooler" in name for name in state)
            config = import_config(settings, **{"sentence_head": sentence_head, **fields, **overrides})
        else:
            config = exported.replace(**overrides)
    return config, import_weights(config, state, seed, lambda line: note(f"{directory}: {line}"))


def possible_shapes(directory: Path, **overrides) -> list[BertConfig]:
    """The shapes that `import_model` may find in a folder, as far as they can be told without reading a weight: that of
    config.json, and before it the one that was exported, which the weights may have left since. Raises UserError where
    names or shapes of the weights are those of neither."""
    _check_files(directory)
    with opening(directory):
        settings = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        _check_encoder(directory, settings)
        with safe_open(directory / "model.safetensors", framework="pt") as file:
            state = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
        exported = [BertConfig(**settings[EXPORTED_SHAPE]).replace(**overrides)] if EXPORTED_SHAPE in settings else []
        settings, state, fields = _as_bert(settings, state)
        shapes = [*exported, import_config(settings, **{**fields, **overrides})]
        faults = [_fault(config, state) for config in shapes]
        if all(faults):
            raise UserError(f"{directory}: {faults[-1]}")
        return [config for config, fault in zip(shapes, faults, strict=True) if fault is None]


def _fault(config: BertConfig, state: Mapping[str, Tensor]) -> str | None:
    """What keeps tensors of these names and shapes from being a model of `config`."""
    try:
        _check_fit(config, _tied(state))
    except UserError as error:
        return str(error)
    return None


def _check_files(directory: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        if not (directory / file).is_file():
            raise UserError(
                f"{directory} has no {file}; save the model there with save_pretrained (safetensors, one file)"
            )


def _check_encoder(directory: Path, settings: dict) -> None:
    if settings.get("is_decoder") or settings.get("add_cross_attention"):
        raise UserError(
            f"{directory} is a decoder (is_decoder or add_cross_attention in its config.json): its tokens see only "
            "those before them; choose an encoder"
        )


def _as_bert(settings: dict, state: dict[str, Tensor]) -> AsBert:
    family = FAMILIES.get(settings.get("model_type", ""))
    return family(settings, state) if family else AsBert(settings, {_modern_name(n): t for n, t in state.items()}, {})


@contextmanager
def opening(directory: Path) -> Iterator[None]:
    """Inside, whatever is wrong with the files in `directory` becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as fault:  # damaged files break the libraries that read them in any way
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:MAX_REASON]
        raise UserError(
            f"{directory} cannot be opened as a model of transformers ({reason}); copy it again, or save it again"
        ) from None


def _exported_shape(settings: dict, state: dict[str, Tensor]) -> BertConfig | None:
    """The shape that was exported, if the weights still have it: layers that shared a block may have parted since."""
    if EXPORTED_SHAPE not in settings:
        return None
    config = BertConfig(**settings[EXPORTED_SHAPE])
    try:
        again = weights_as_bert(config, import_weights(config, state))
    except UserError:  # trained on under another architecture, without the heads of pretraining
        return None
    return config if all(name in state and torch.equal(again[name], state[name].float()) for name in again) else None


def import_config(settings: dict, **overrides) -> BertConfig:
    """The shape that a `config.json` describes."""
    norms = {model_type: norm for norm, (model_type, _) in ARCHITECTURES.items()}
    if settings.get("model_type") not in norms:
        raise UserError(
            f"model_type {settings.get('model_type')!r} cannot be imported; "
            f"choose one of {', '.join((*norms, *FAMILIES))}"
        )
    if settings.get("hidden_act", "gelu") not in ACTIVATION_OF:
        raise UserError(
            f"hidden_act {settings['hidden_act']!r} cannot be imported; choose one of {', '.join(ACTIVATION_OF)}"
        )
    if settings.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(
            f"position_embedding_type {settings['position_embedding_type']!r} cannot be imported, only 'absolute'"
        )
    fields = {ours: settings[theirs] for ours, theirs in FIELDS.items() if theirs in settings}
    for ours, theirs in FIELDS.items():
        if ours not in fields and BertConfig.model_fields[ours].is_required():
            raise UserError(f"config.json has no {theirs}, and nothing else says it; save the model again")
    fields |= dict(norm=norms[settings["model_type"]], activation=ACTIVATION_OF[settings.get("hidden_act", "gelu")])
    config = BertConfig(**fields)
    std = settings.get("initializer_range", config.std)
    return config.replace(**{"initializer_std": None if math.isclose(std, config.std) else std, **overrides})


def import_weights(
    config: BertConfig, state: Mapping[str, Tensor], seed: int = 0, note: Note = lambda line: None
) -> dict[str, Tensor]:
    """Logical fp32 weights of every parameter of `config`. A head that is absent is fresh; every tensor of `state` is
    used, or named to `note`, or refused."""
    state = _tied(state)
    _check_fit(config, state)
    padded = _padded_table(config)
    weights, used, fresh = {}, set(), []
    for name, spec in parameter_table(config).items():
        theirs, *copies = huggingface_names(config, spec)
        if theirs in state:
            weights[name] = state[theirs].float().reshape(padded[name].shape)[corner(spec.shape)].contiguous()
            used |= {theirs, *copies}
        else:
            weights[name] = initial_weight(config, name, seed)
            fresh.append(name)
    for name in padded.keys() - weights.keys():  # biases that a plain BERT has and ours has not: zeros are none
        used |= {
            theirs for theirs in huggingface_names(config, padded[name]) if theirs in state and not state[theirs].any()
        }
    unused = {name for name in state.keys() - used if not name.endswith(BUFFERS)}
    _check_encoder_is_used(unused, config)
    if unused:
        note(f"not used: {', '.join(sorted(unused))}")
    if fresh:
        heads = [head for head in HEADS if any(name.startswith(f"{head}.") for name in fresh)]
        note(f"its file has no {', '.join(heads)} head; {'it is' if len(heads) == 1 else 'they are'} drawn afresh")
    return weights


def _tied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names of today, without the second names of the output layer. UserError where these hold other values:
    what that model computes cannot be kept, since here the output layer is the word table. Tensors without values
    (meta) are compared by their shapes alone."""
    state = {_modern_name(name): tensor for name, tensor in state.items()}
    for second, first in DECODER.items():
        tensor = state.pop(second, None)
        if tensor is None:
            continue
        other = state.setdefault(first, tensor)
        if tensor.shape != other.shape or not (tensor.is_meta or torch.equal(tensor, other)):
            raise UserError(
                f"{second} differs from {first}: its output layer is not tied to its word embeddings, as Espalier's "
                "is; tie them and train it so, or start from another model"
            )
    return state


def _check_fit(config: BertConfig, state: Mapping[str, Tensor]) -> None:
    """Raises UserError where names or shapes of the tensors are not those of `config`. Reads no value."""
    padded, fresh = _padded_table(config), []
    for name, spec in parameter_table(config).items():
        theirs = huggingface_names(config, spec)[0]
        if theirs in state:
            shape = tuple(state[theirs].shape)
            if shape != merged_shape(padded[name]):
                raise UserError(f"{theirs} has shape {shape}, but its config.json says {merged_shape(padded[name])}")
        elif name.startswith(HEADS):
            fresh.append(name)
        else:
            raise UserError(
                f"the model to import has no {theirs}: it is not the {config.norm}-LN BERT of its config.json"
            )
    _check_heads(config, fresh)
    known = {theirs for spec in padded.values() for theirs in huggingface_names(config, spec)}
    _check_encoder_is_used({name for name in state.keys() - known if not name.endswith(BUFFERS)}, config)


def _padded_table(config: BertConfig) -> dict[str, ParameterSpec]:
    """What transformers has in place of the parameters: only export pads, and no ALBERT."""
    return parameter_table(config if config.embedding_size else plain_shape(config))


def _check_heads(config: BertConfig, fresh: Sequence[str]) -> None:
    """Half a head is a damaged file, not a model without that head."""
    for head in HEADS:
        names = [name for name in parameter_table(config) if name.startswith(f"{head}.")]
        absent = [name for name in names if name in fresh]
        if absent and len(absent) < len(names):
            raise UserError(f"the model to import has a part of the {head} head, but no {absent[0]}; save it again")


def _check_encoder_is_used(unused: set[str], config: BertConfig) -> None:
    """Heads of other tasks may go; a part of the encoder may not."""
    inner = sorted(name for name in unused if name.startswith("bert.") and not name.startswith("bert.pooler."))
    if inner:
        more = f" and {len(inner) - 1} more" if len(inner) > 1 else ""
        raise UserError(
            f"the model to import has {inner[0]}{more}, for which a {config.norm}-LN BERT of its config.json has no "
            "place; choose a plain BERT"
        )


def _modern_name(name: str) -> str:
    """Bare encoders (BertModel) have no `bert.` prefix; checkpoints of 2018 call LayerNorm's parameters gamma, beta."""
    if name.startswith(("embeddings.", "encoder.", "pooler.")):
        name = f"bert.{name}"
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
