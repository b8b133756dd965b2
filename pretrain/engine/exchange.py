"""Moves state between an engine's fragments and the ranks that own the logical tensors."""

from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from growth.state import TENSORS, Fetch, Record, TrainingState, assign_owners
from model.bert import BertForPreTraining
from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from model.parameters import parameter_table
from pretrain.engine.distributed import device
from pretrain.engine.gather import Division, gather
from pretrain.engine.host_memory import return_freed_memory
from pretrain.engine.zero import Fragment, current_steps, cuts, fragments, write_model_weight


@dataclass
class EngineParts:
    """The engine's state as its ranks hold it, in partitions. Outlives the engine."""

    config: BertConfig
    steps: dict[str, int]
    division: Division
    """Which rank holds which elements of each parameter that is trained."""
    columns: dict[str, dict[str, Tensor]]
    """This rank's parts, [numel] each: {"weight": {name: part}, "exp_avg": ...}."""
    frozen: dict[str, Record]
    """Records of parameters that are not trained, on their owners."""


def read_state(engine: DeepSpeedEngine) -> TrainingState:
    """The engine's state in logical form, each record on its owner, on the CPU. Collective."""
    return assemble(engine_parts(engine))


def engine_parts(engine: DeepSpeedEngine) -> EngineParts:
    """Views of the engine's tensors, not copies: valid until its next step."""
    config = engine.module.config
    local = fragments(engine)
    frozen = frozen_records(engine)
    steps = current_steps(engine) | {name: record.step for name, record in frozen.items()}
    columns = {kind: {name: getattr(fragment, kind) for name, fragment in local.items()} for kind in TENSORS}
    return EngineParts(config, steps, _division(engine, local), columns, frozen)


def assemble(parts: EngineParts) -> TrainingState:
    """The logical state, each record on its owner, on the CPU. Collective; empties `parts`.

    Parts go straight to the owner: no rank ever holds more than its own records and what travels at once. Weights are
    read first, then each moment, so partitions that nothing else holds are freed on the way.
    """
    owners = assign_owners(parts.config, dist.get_world_size())
    table = parameter_table(parts.config)
    state = TrainingState(parts.config, owners, {name: parts.steps[name] for name in table})
    read: dict[str, list[Tensor]] = defaultdict(list)
    for kind in TENSORS:
        local = parts.columns.pop(kind)
        for name, whole in gather(parts.division.cuts, parts.division, owners, local):
            read[name].append(whole)
        del local
        return_freed_memory()
    own = [name for name, owner in owners.items() if owner == dist.get_rank()]
    for name in own:
        state.records[name] = Record.of(read[name], state.steps[name]) if name in read else parts.frozen[name]
    return state


def fetch_from(state: TrainingState) -> Fetch:
    """Returns any record on every rank, by broadcast from its owner. Collective: all ranks ask for the same names."""
    table = parameter_table(state.config)
    rank = dist.get_rank()

    def fetch(name: str) -> Record:
        spec, owner = table[name], state.owners[name]
        if dist.get_world_size() == 1:
            return state.records[name]
        if rank == owner:
            message = torch.stack([t.reshape(-1) for t in state.records[name].tensors()]).to(device())
        else:
            message = torch.empty(3, spec.numel, device=device())
        dist.broadcast(message, owner)
        return Record.of((tensor.view(spec.shape) for tensor in message.cpu()), state.steps[name])

    return fetch


def write_record(engine: DeepSpeedEngine, local: dict[str, Fragment], name: str, record: Record) -> None:
    """Sets one parameter's weights, master and moments on this rank from the whole logical record."""
    model: BertForPreTraining = engine.module
    spec = parameter_table(model.config)[name]
    if not spec.trainable:
        is_owner = assign_owners(model.config, dist.get_world_size())[name] == dist.get_rank()
        frozen_records(engine)[name] = record if is_owner else Record(*_NOTHING, step=record.step)
    shards = [model.tp.shard(spec, tensor).reshape(-1) for tensor in record.tensors()]
    if name in local:
        fragment = local[name]
        for target, shard in zip(fragment.tensors(), shards, strict=True):
            target.copy_(shard.narrow(0, fragment.start, fragment.numel))
    write_model_weight(engine, model.get_parameter(name), shards[0])


def frozen_records(engine: DeepSpeedEngine) -> dict[str, Record]:
    """fp32 weights, moments and steps of frozen parameters. DeepSpeed does not hold them; they may be trained later.

    The owner has the record; the other ranks know only the step.
    """
    return vars(engine).setdefault("frozen_records", {})


def _division(engine: DeepSpeedEngine, local: dict[str, Fragment]) -> Division:
    table, layout = parameter_table(engine.module.config), ParallelLayout.current()
    found = cuts(engine)
    division = Division(table, layout, {name: found[name] for name, spec in table.items() if spec.trainable})
    rank = dist.get_rank()
    for name in division.cuts:
        start, numel = division.span(name, rank)
        held = (local[name].start, local[name].numel) if name in local else (0, 0)
        assert not numel or held == (start, numel), f"{name}: this rank holds {held}, not {(start, numel)}"
    return division


_NOTHING = (torch.empty(0),) * 3
