"""Weights to start a run from, out of other formats: Hugging Face transformers, DeepSpeed's own, or another run's."""

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
from pretrain.checkpoint.files import INDEX, load_checkpoint
from pretrain.checkpoint.store import find_checkpoint
from pretrain.engine.agreement import say_once
from pretrain.interop.huggingface_import import import_model, import_weights


def import_start(path: Path, config: BertConfig, seed: int) -> TrainingState:
    """A state of the shape `config` with imported weights, no moments, and no steps taken. Collective.

    `path` is a checkpoint or run of Espalier's, a folder that `save_pretrained` wrote, or one that DeepSpeed's
    `save_checkpoint` wrote. What only Espalier's model has (a head the other lacks) is fresh, drawn from `seed`.
    Raises UserError when it is none of these or its shapes are not those of `config`.
    """
    check_start(path)
    weights = _read(path, config, seed)
    table = parameter_table(config)
    for name, spec in table.items():
        if name not in weights:
            raise UserError(f"start {path} has no {name}; give the first stage the shape of the model there")
        if tuple(weights[name].shape) != spec.shape:
            raise UserError(
                f"start {path}: {name} has shape {list(weights[name].shape)}, the first stage needs "
                f"{list(spec.shape)}; give the first stage the shape of the model there, and grow from it"
            )
    owners = assign_owners(config, dist.get_world_size())
    mine = [name for name, owner in owners.items() if owner == dist.get_rank()]
    records = {name: Record.fresh(weights[name].float().contiguous()) for name in mine}
    return TrainingState(config, owners, dict.fromkeys(owners, 0), records)


def check_start(path: Path) -> None:
    """Raises UserError if `import_start` cannot read the folder `path`. Opens no weights."""
    if not path.is_dir():
        raise UserError(f"start {path} does not exist; name a folder with a checkpoint")
    holds_one = (find_checkpoint(path) / INDEX, path / "config.json", path / "latest")
    if not any(file.is_file() for file in holds_one) and not list(path.glob("*_model_states.pt")):
        raise UserError(
            f"start {path} is not a checkpoint: it has neither {INDEX} (Espalier), config.json (Hugging Face) nor "
            "*_model_states.pt (DeepSpeed)"
        )


def _read(path: Path, config: BertConfig, seed: int) -> dict[str, Tensor]:
    """{logical name: weight}, as far as this rank needs them."""
    if (find_checkpoint(path) / INDEX).is_file():
        state, _ = load_checkpoint(find_checkpoint(path))
        return {
            name: torch.empty(spec.shape, device="meta") for name, spec in parameter_table(state.config).items()
        } | {name: record.weight for name, record in state.records.items()}
    if (path / "config.json").is_file():
        return import_model(path, seed, say_once, sentence_head=config.sentence_head)[1]
    return _read_deepspeed(path, config, seed)


def _read_deepspeed(path: Path, config: BertConfig, seed: int) -> dict[str, Tensor]:
    """The fp32 masters of a checkpoint by `engine.save_checkpoint`, of Espalier's model or of transformers' BERT."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    tag = None
    if not (path / "latest").is_file():
        path, tag = path.parent, path.name
    folder = path / (tag or (path / "latest").read_text("utf-8").strip())
    if len(list(folder.glob("mp_rank_*_model_states.pt"))) > 1:
        raise UserError(
            f"start {folder} was cut by tensor parallelism; save it with one rank a model, or as safetensors"
        )
    say_once(f"{folder} is in DeepSpeed's own format, which is pickled: reading it may run what its author put there")
    if list(folder.glob("*_optim_states.pt")):
        weights = get_fp32_state_dict_from_zero_checkpoint(str(path), tag)
    else:
        file = next(folder.glob("*_model_states.pt"))
        weights = torch.load(file, map_location="cpu", weights_only=False)["module"]
    weights = {
        name.removeprefix("module."): tensor.detach() for name, tensor in weights.items() if isinstance(tensor, Tensor)
    }
    table = parameter_table(config)
    if not table.keys() & weights.keys():
        return import_weights(config, weights, seed, say_once)
    # Espalier's own model: on the devices its vocabulary is padded, and heads and head_dim are one axis.
    return {
        name: unshard(spec, [weights[name].view(spec.padded_shape)])
        if weights[name].numel() == prod(spec.padded_shape)
        else weights[name]
        for name, spec in table.items()
        if name in weights
    }
