"""Weights to start a run from, out of other formats: Hugging Face transformers, DeepSpeed's own, or another run's."""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from growth.state import Record, TrainingState, assign_owners
from model.config import BertConfig
from model.errors import UserError
from model.parallel.tensor import unshard
from model.parameters import parameter_table
from pretrain.checkpoint.files import INDEX, load_checkpoint, read_index, readable
from pretrain.checkpoint.store import find_checkpoint
from pretrain.engine.agreement import say_once
from pretrain.interop.deepspeed_import import deepspeed_shapes, is_deepspeed, read_deepspeed
from pretrain.interop.huggingface_import import import_model, import_weights, possible_shapes
from pretrain.settings.hub import local_folder

TOLD = (
    *("layers", "hidden", "heads", "head_dim", "ffn", "norm", "max_positions", "type_vocab", "sentence_head"),
    *("positions", "gated", "norm_type", "norm_bias", "embedding_norm", "first_norm"),
    *("attention_bias", "ffn_bias", "head_bias"),
)
"""Fields of a shape that a user is told of."""


def import_start(path: Path, config: BertConfig, seed: int, trust_pickle: bool = False) -> TrainingState:
    """A state of the shape `config` with imported weights, no moments, and no steps taken. Collective.

    `path` is a checkpoint or run of Espalier's, a folder that `save_pretrained` wrote, or one that DeepSpeed's
    `save_checkpoint` wrote. What only Espalier's model has (a head the other lacks) is fresh, drawn from `seed`.
    `trust_pickle`: whether pickled files may run code. Raises UserError when the folder is none of these or its shapes
    are not those of `config`.
    """
    path = local_folder(path)
    _check_kind(path)
    weights = _read(path, config, seed, trust_pickle)
    if misfit := _misfit(path, _sizes(weights), config):
        raise UserError(misfit)
    owners = assign_owners(config, dist.get_world_size())
    mine = [name for name, owner in owners.items() if owner == dist.get_rank()]
    records = {name: Record.fresh(weights[name].float().contiguous()) for name in mine}
    return TrainingState(config, owners, dict.fromkeys(owners, 0), records)


def check_start(path: Path, config: BertConfig, trust_pickle: bool = False) -> None:
    """Raises UserError if `import_start` cannot read the folder `path` or its shapes are not those of `config`, as far
    as can be told without reading a weight."""
    path = local_folder(path)
    _check_kind(path)
    known: list[BertConfig] = []
    if (find_checkpoint(path) / INDEX).is_file():
        with readable(find_checkpoint(path)):
            known = [BertConfig(**read_index(find_checkpoint(path))["config"])]
    elif (path / "config.json").is_file():
        known = possible_shapes(path, sentence_head=config.sentence_head)
    else:
        weights = _of_table(deepspeed_shapes(path, trust_pickle), config)
        # None of the table: transformers' BERT, which is known when it is read.
        if weights and (misfit := _misfit(path, _sizes(weights), config)):
            raise UserError(misfit)
    faults = [_misfit(path, _shapes(each), config) for each in known]
    if faults and all(faults):
        raise UserError(f"{faults[0]}: {_in_words(known[-1], config)}")


def _in_words(there: BertConfig, wanted: BertConfig) -> str:
    """What would make the recipe's model the model that is there."""
    ours, theirs = (each.model_dump(mode="json") for each in (wanted, there))
    fields = [f"{name}: {theirs[name]}" for name in TOLD if theirs[name] != ours[name]]
    told = [f"model: {{{', '.join(fields)}}}"] if fields else []
    if theirs["vocab_size"] != ours["vocab_size"]:
        told.append(f"a corpus with its vocabulary of {theirs['vocab_size']:,}, prepared with --vocab")
    return " and ".join(told) or "look at its config.json"


def _shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    return {name: spec.shape for name, spec in parameter_table(config).items()}


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _misfit(path: Path, shapes: Mapping[str, tuple[int, ...]], config: BertConfig) -> str | None:
    """What keeps weights of these shapes from being those of `config`, in one line."""
    for name, spec in parameter_table(config).items():
        if name not in shapes:
            return f"start {path} has no {name}; give the first stage the shape of the model there"
        if shapes[name] != spec.shape:
            return (
                f"start {path}: {name} has shape {list(shapes[name])}, the first stage needs "
                f"{list(spec.shape)}; give the first stage the shape of the model there, and grow from it"
            )
    return None


def _check_kind(path: Path) -> None:
    """Raises UserError if the folder `path` holds no checkpoint of any kind."""
    if not path.is_dir():
        raise UserError(f"start {path} does not exist; name a folder with a checkpoint")
    holds_one = (find_checkpoint(path) / INDEX, path / "config.json")
    if not any(file.is_file() for file in holds_one) and not is_deepspeed(path):
        raise UserError(
            f"start {path} is not a checkpoint: it has neither {INDEX} (Espalier), config.json (Hugging Face) nor "
            "*_model_states.pt (DeepSpeed)"
        )


def _read(path: Path, config: BertConfig, seed: int, trust_pickle: bool) -> dict[str, Tensor]:
    """{logical name: weight}, as far as this rank needs them."""
    if (find_checkpoint(path) / INDEX).is_file():
        state, _ = load_checkpoint(find_checkpoint(path))
        return {
            name: torch.empty(spec.shape, device="meta") for name, spec in parameter_table(state.config).items()
        } | {name: record.weight for name, record in state.records.items()}
    if (path / "config.json").is_file():
        return import_model(path, seed, say_once, sentence_head=config.sentence_head)[1]
    weights = read_deepspeed(path, trust_pickle, say_once)
    if not parameter_table(config).keys() & weights.keys():
        return import_weights(config, weights, seed, say_once)
    return _of_table(weights, config)


def _of_table(weights: Mapping[str, Tensor], config: BertConfig) -> dict[str, Tensor]:
    """Those of Espalier's own model. On the devices its vocabulary is padded, and heads and head_dim are one axis."""
    return {
        name: unshard(spec, [weights[name].view(spec.padded_shape)])
        if weights[name].numel() == prod(spec.padded_shape)
        else weights[name]
        for name, spec in parameter_table(config).items()
        if name in weights
    }
