"""Weights to start a run from, out of other formats: Hugging Face transformers, DeepSpeed's own, or another run's."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from growth.state import Record, TrainingState, assign_owners
from model.config import BertConfig
from model.errors import UserError
from model.fields import Flag
from model.parallel.tensor import unshard
from model.parameters import parameter_table
from pretrain.checkpoint.files import INDEX, load_checkpoint, read_index, readable
from pretrain.checkpoint.store import find_checkpoint
from pretrain.engine.agreement import read_once, say_once
from pretrain.interop.deepspeed_import import deepspeed_shapes, is_deepspeed, read_deepspeed
from pretrain.interop.huggingface_import import import_model, import_weights, possible_shapes
from pretrain.settings.hub import local_folder

HOW_TRAINED = (
    *("hidden_dropout", "attention_dropout", "heads_multiple", "ffn_multiple", "masked"),
    *("initializer_std", "position_init", "attention_init", "output_init"),
)
"""Fields that say how a model begins or is trained, beside those marked so: a start may have others."""
SIZES = ("vocab_size", "max_positions", "sentence_head")
"""Fields that say which weights there are, and nothing else: these are compared themselves."""
AS_THERE = "give the first stage the shape of the model there"


def import_start(path: Path, config: BertConfig, seed: int, trust_pickle: bool = False) -> TrainingState:
    """A state of the shape `config` with imported weights, no moments, and no steps taken. Collective.

    `path` is a checkpoint or run of Espalier's, a folder that `save_pretrained` wrote, or one that DeepSpeed's
    `save_checkpoint` wrote. What only Espalier's model has (a head the other lacks) is fresh, drawn from `seed`.
    `trust_pickle`: whether pickled files may run code. Raises UserError when the folder is none of these, or its
    model is not one of `config`: other shapes, or another function of the same weights.
    """
    path = local_folder(path)
    there, weights = _read(path, config, seed, trust_pickle)
    if misfit := _misfit(path, _sizes(weights), config, there):
        raise UserError(misfit)
    owners = assign_owners(config, dist.get_world_size())
    mine = [name for name, owner in owners.items() if owner == dist.get_rank()]
    records = {name: Record.fresh(weights[name].float().contiguous()) for name in mine}
    return TrainingState(config, owners, dict.fromkeys(owners, 0), records)


def check_start(path: Path, config: BertConfig, trust_pickle: bool = False) -> None:
    """Raises UserError if `import_start` cannot read the folder `path` or its model is not one of `config`, as far as
    can be told without reading a weight."""
    path = local_folder(path)
    checkpoint, known = own_checkpoint(path), list[BertConfig]()
    if checkpoint is not None:
        with readable(checkpoint):
            known = [BertConfig(**read_index(checkpoint)["config"])]
    elif (path / "config.json").is_file():
        known = possible_shapes(path, sentence_head=config.sentence_head)
    else:
        weights = deepspeed_shapes(path, trust_pickle)
        # None of the table: transformers' BERT, which is known when it is read.
        ours = bool(parameter_table(config).keys() & weights.keys())
        if ours and (misfit := _misfit(path, _sizes(_of_table(weights, config)), config)):
            raise UserError(misfit)
    faults = [misfit_of(path, config, each) for each in known]
    if faults and all(faults):
        raise UserError(str(faults[0]))


def misfit_of(path: Path, config: BertConfig, there: BertConfig) -> str | None:
    """What keeps a model of shape `there` from being one of `config`, in one line."""
    return _misfit(path, _shapes(there), config, there)


def _in_words(there: BertConfig, wanted: BertConfig) -> str:
    """What would make the recipe's model the model that is there."""
    fields = {name: theirs for name, (theirs, _) in _differences(there, wanted).items()}
    vocab_size = fields.pop("vocab_size", None)
    told = [f"model: {{{', '.join(f'{name}: {_word(value)}' for name, value in fields.items())}}}"] if fields else []
    if vocab_size is not None:
        told.append(f"a corpus with its vocabulary of {vocab_size:,}, prepared with --vocab")
    return " and ".join(told) or "look at its config.json"


def _differences(there: BertConfig, wanted: BertConfig) -> dict[str, tuple[Any, Any]]:
    """{field: its value there and the one wanted} of all that make another model."""
    theirs, ours = (each.model_dump(mode="json") for each in (there, wanted))
    may_differ = {*HOW_TRAINED, *BertConfig.fields_with(Flag.NOT_IN_TARGET)}
    return {name: (theirs[name], ours[name]) for name in ours if name not in may_differ and theirs[name] != ours[name]}


def _word(value: Any) -> str:
    """As a recipe has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    return {name: spec.shape for name, spec in parameter_table(config).items()}


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _misfit(
    path: Path, shapes: Mapping[str, tuple[int, ...]], config: BertConfig, there: BertConfig | None = None
) -> str | None:
    """What keeps a model with weights of these shapes from being one of `config`, in one line. there: its own shape,
    where the files tell it."""
    fault = _other_weights(shapes, config) or (_other_function(there, config) if there else None)
    fault = fault or _more_weights(shapes, config)
    words = f": {_in_words(there, config)}" if there else ""
    return f"start {path}{fault}{words}" if fault else None


def _other_weights(shapes: Mapping[str, tuple[int, ...]], config: BertConfig) -> str | None:
    for name, spec in parameter_table(config).items():
        if name not in shapes:
            return f" has no {name}; {AS_THERE}"
        if shapes[name] != spec.shape:
            return (
                f": {name} has shape {list(shapes[name])}, the first stage needs {list(spec.shape)}; {AS_THERE}, and "
                "grow from it"
            )
    return None


def _other_function(there: BertConfig, config: BertConfig) -> str | None:
    """The same weights may compute something else: with other angles, windows, norms, or fewer of the layers."""
    for name, (theirs, ours) in _differences(there, config).items():
        if name not in SIZES:
            return f" has {name} {_word(theirs)}, the first stage {_word(ours)}; {AS_THERE}"
    return None


def _more_weights(shapes: Mapping[str, tuple[int, ...]], config: BertConfig) -> str | None:
    """A head for sentence pairs may be left out."""
    table = parameter_table(config)
    for name in shapes:
        if name not in table and not name.startswith(("pooler.", "sentence.")):
            return f" has {name}, for which the first stage has no place; {AS_THERE}"
    return None


def own_checkpoint(path: Path) -> Path | None:
    """Espalier's checkpoint that the folder `path` is or holds, the latest; None if one of another kind is there.

    Raises UserError if there is none of any kind.
    """
    if not path.is_dir():
        raise UserError(f"start {path} does not exist; name a folder with a checkpoint")
    checkpoint = find_checkpoint(path)
    if (checkpoint / INDEX).is_file():
        return checkpoint
    if not (path / "config.json").is_file() and not is_deepspeed(path):
        raise UserError(
            f"start {path} is not a checkpoint: it has neither {INDEX} (Espalier), config.json (Hugging Face) nor "
            "*_model_states.pt (DeepSpeed)"
        )
    return None


def _read(path: Path, config: BertConfig, seed: int, trust_pickle: bool) -> tuple[BertConfig | None, dict[str, Tensor]]:
    """The model's shape, where the files tell it, and {logical name: weight}, as far as this rank needs them.
    Collective."""
    checkpoint = read_once(lambda: own_checkpoint(path))  # a run that still trains may move its latest at any moment
    if checkpoint is not None:
        state, _ = load_checkpoint(checkpoint)
        return state.config, {
            name: torch.empty(spec.shape, device="meta") for name, spec in parameter_table(state.config).items()
        } | {name: record.weight for name, record in state.records.items()}
    if (path / "config.json").is_file():
        return import_model(path, seed, say_once, sentence_head=config.sentence_head)
    weights = read_deepspeed(path, trust_pickle, say_once)
    if not parameter_table(config).keys() & weights.keys():
        return None, import_weights(config, weights, seed, say_once)
    return None, _of_table(weights, config)


def _of_table(weights: Mapping[str, Tensor], config: BertConfig) -> dict[str, Tensor]:
    """Those of Espalier's own model. On the devices its vocabulary is padded, and heads and head_dim are one axis."""
    table = parameter_table(config)

    def logical(name: str, weight: Tensor) -> Tensor:
        if name not in table or weight.numel() != prod(table[name].padded_shape):
            return weight
        return unshard(table[name], [weight.view(table[name].padded_shape)])

    return {name: logical(name, weight) for name, weight in weights.items()}
