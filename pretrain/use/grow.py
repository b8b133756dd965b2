"""The verb `grow`: a change of shape offline, from one checkpoint to another, on any number of processes."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist

from growth.moments import MomentRule, of_gradients
from growth.operators import shape_change
from growth.partial_shape import PartialShape
from growth.state import Record, TrainingState, assign_owners
from model.config import PRESETS, BertConfig
from model.errors import UserError
from model.parallel.layout import ParallelLayout
from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.checkpoint.even import evenly
from pretrain.checkpoint.files import write_index, write_part
from pretrain.data.text.tokenizer import (
    TextTokenizer,
    read_tokenizer,
    save_tokenizer,
    saved_tokenizer,
    transformers_tokenizer,
)
from pretrain.engine.agreement import from_rank_0, raise_together, say_once
from pretrain.engine.spread import changed_state
from pretrain.interop.continuing import optimizer_of, settled_units
from pretrain.interop.huggingface_import import import_model
from pretrain.recipe.operators import AUTO, read_operators
from pretrain.runs.outputs import check_folder
from pretrain.settings.hub import local_folder
from pretrain.settings.yaml_text import parse
from pretrain.training.growth_inputs import PROBE_ROWS, Probe, growth_inputs
from pretrain.use.trained import open_corpus, saved_rows


def grow(path: Path, to: Sequence[str], operators: Sequence[str], out: Path) -> tuple[BertConfig, BertConfig]:
    """Grows the checkpoint `path` and writes the result to `out`. Returns both shapes. Collective.

    `path` is a run's folder, one of its checkpoints, or a model saved by Hugging Face transformers (weights and
    tokenizer; moments start at zero). `to` holds the name of a preset or `field=value`; `operators` holds names such as
    `stack`, or `{widen: {axis: ffn}}`, in order. The result equals the same change in memory, bit for bit. Records pass
    through one at a time: a rank holds those it owns, before and after, and one more.
    """
    if out.exists():
        raise UserError(f"--output {out} exists already; name a new folder")
    check_folder("--output", out)
    named, path = path, local_folder(path)
    state, run = open_state(path)
    tokenizer = own_tokenizer(path)
    wanted = read_shape(to)
    chosen = read_operators([_read_operator(text) for text in operators or [AUTO]], state.config, wanted)
    if any(getattr(operator, "moments", None) == "new_units" for operator in chosen):
        learns = any(operator.learning_steps for operator in chosen)
        others = "reset, and steps: 0" if learns else "transform or reset"
        raise UserError(f"moments new_units counts the steps of a run: give it to a stage, or choose {others}")
    grown: dict[str, Any] = {"from": str(named), "operators": [operator.name for operator in chosen]}
    inputs = growth_inputs(
        state,
        _moment_rule(run),
        open_probe=lambda: open_probe(run, path),
        open_saved=lambda other: open_state(Path(other))[0],
        report=lambda correlation: grown.update(correlation=correlation),
        seed=run.get("recipe", {}).get("seed", 0),
    )
    change = settled_units(state.config, run).then(shape_change(state.config, chosen, wanted, inputs))
    changed = changed_state(state, change)
    run.get("progress", {}).pop("new_units", None)
    save_state(changed, {**run, "grown": grown}, out, tokenizer)
    return state.config, change.target


def open_state(path: Path) -> tuple[TrainingState, dict[str, Any]]:
    """The state of a checkpoint or of a Hugging Face model, spread over the ranks, and what was saved with it."""
    if not (path / "config.json").is_file():
        return load_checkpoint(find_checkpoint(path))
    config, weights = import_model(path, note=say_once)
    owners = assign_owners(config, dist.get_world_size())
    records = {name: Record.fresh(weights[name]) for name, owner in owners.items() if owner == dist.get_rank()}
    return TrainingState(config, owners, dict.fromkeys(owners, 0), records), {"sequence": config.max_positions}


def own_tokenizer(path: Path) -> TextTokenizer | None:
    """The tokenizer of a Hugging Face model, or of what was grown from one: no corpus holds it.

    Without a tokenizer.json it is BERT's, with the words of vocab.txt. Without either, a line says so.
    """
    if not (path / "config.json").is_file():
        saved = saved_tokenizer(find_checkpoint(path))
        return read_tokenizer(saved) if saved else None
    tokenizer = transformers_tokenizer(path)
    if tokenizer is None:
        say_once(
            f"{path} has no tokenizer.json or vocab.txt: no tokenizer is copied, and the grown model needs a corpus of "
            "its vocabulary by --corpus"
        )
    return tokenizer


def open_probe(run: dict[str, Any], path: Path) -> Probe:
    """Validation rows of the corpus that the checkpoint was trained on. Raises UserError where there are none."""
    try:
        if "corpus" not in run:
            raise UserError("the corpus it was trained on is not known")
        num_rows = min(run["recipe"]["validation"]["rows"], PROBE_ROWS)
        rows = saved_rows(run, open_corpus(run, None, path), num_rows)
    except UserError as error:
        raise UserError(
            f"{path}: gradients cannot be measured here, {error}; give the option correlation, a number from 0 to 1"
        ) from error
    return Probe(rows, ParallelLayout(1, dist.get_world_size()), torch.float32)


def _moment_rule(run: dict[str, Any]) -> MomentRule:
    """Imported weights have no moments, so any rule does."""
    return optimizer_of(run).moment_rule if "recipe" in run else of_gradients


def save_state(state: TrainingState, run: dict[str, Any], out: Path, tokenizer: TextTokenizer | None = None) -> None:
    """Writes a checkpoint folder, complete under its name or not there at all. Collective."""
    own = out.with_name(f".{out.name}.{uuid4().hex}")  # several processes may write to the same place at once
    partial = from_rank_0(own)
    if dist.get_rank() == 0:
        partial.mkdir(parents=True)
    dist.barrier()
    sums: list[str | None] = [None] * dist.get_world_size()
    parts = evenly(state)
    dist.all_gather_object(sums, write_part(partial, dist.get_rank(), parts))
    if dist.get_rank() == 0:
        if tokenizer is not None:
            run = {**run, "tokenizer": save_tokenizer(tokenizer, partial)}
        write_index(partial, parts, run, {rank: checksum for rank, checksum in enumerate(sums) if checksum})
    raise_together(_put(partial, out) if dist.get_rank() == 0 else None)


def _put(partial: Path, out: Path) -> UserError | None:
    """Gives a complete folder its name, unless another process was faster."""
    try:
        partial.rename(out)
    except OSError as fault:
        shutil.rmtree(partial, ignore_errors=True)
        return UserError(f"--output {out} cannot be written: {fault.strerror}; name a new folder")
    return None


def read_shape(to: Sequence[str]) -> PartialShape:
    """`["base", "ffn=1024"]` -> the fields asked for."""
    wanted: dict[str, Any] = {}
    for text in to:
        field, equals, value = text.partition("=")
        if not equals and text in PRESETS:
            wanted |= BertConfig.preset(text).model_dump(include={*PRESETS[text], "head_dim"})
        elif equals and field in BertConfig.model_fields:
            wanted[field] = parse(value, f"--to {text}")
        else:
            raise UserError(
                f"--to {text}: write FIELD=VALUE, such as layers=12, or a preset ({', '.join(PRESETS)}); "
                f"the fields are {', '.join(BertConfig.model_fields)}"
            )
    return PartialShape(wanted)


def _read_operator(text: str) -> Mapping[str, Mapping[str, Any]]:
    """`stack` or `{widen: {axis: ffn}}`."""
    value = parse(text, f"--operator {text}")
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, dict) and len(value) == 1 and all(o is None or isinstance(o, dict) for o in value.values()):
        return value
    raise UserError(f"--operator {json.dumps(text)}: write a name such as stack, or {{widen: {{axis: ffn}}}}")
