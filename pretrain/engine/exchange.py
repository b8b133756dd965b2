"""Moves state between an engine's fragments and the ranks that own the logical tensors, one parameter at a time."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from growth.state import TENSORS, Fetch, Record, TrainingState, assign_owners
from model.bert import BertForPreTraining
from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from model.parallel.tensor import local_shape, unshard
from model.parameters import ParameterSpec, parameter_table
from pretrain.engine.distributed import device
from pretrain.engine.host_memory import return_freed_memory
from pretrain.engine.zero import Fragment, current_steps, fragments, write_model_weight

Span = tuple[int, int, int]
"""Tensor-parallel rank, start and number of elements of a fragment in its flattened shard."""


@dataclass
class EngineParts:
    """The engine's state as its ranks hold it, in partitions. Outlives the engine."""

    config: BertConfig
    steps: dict[str, int]
    spans: dict[str, dict[int, Span]]
    """Which rank holds which elements of each parameter: {name: {rank: span}}."""
    columns: dict[str, dict[str, Tensor]]
    """This rank's parts, [numel] each: {"weight": {name: part}, "exp_avg": ...}."""
    frozen: dict[str, Record]
    """Records of parameters that are not trained, on their owners."""


def read_state(engine: DeepSpeedEngine) -> TrainingState:
    """The engine's state in logical form, each record on its owner, on the CPU. Collective."""
    return assemble(engine_parts(engine))


def engine_parts(engine: DeepSpeedEngine) -> EngineParts:
    """Views of the engine's tensors, not copies: valid until its next step. Collective."""
    config = engine.module.config
    local = fragments(engine)
    frozen = frozen_records(engine)
    steps = current_steps(engine) | {name: record.step for name, record in frozen.items()}
    columns = {kind: {name: getattr(fragment, kind) for name, fragment in local.items()} for kind in TENSORS}
    return EngineParts(config, steps, _gather_spans(local, engine.module), columns, frozen)


def assemble(parts: EngineParts) -> TrainingState:
    """The logical state, each record on its owner, on the CPU. Collective; empties `parts`.

    Parts go straight to the owner: no rank ever holds more than its own records and one more. Weights are read first,
    then each moment, so partitions that nothing else holds are freed on the way.
    """
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    owners = assign_owners(parts.config, num_ranks)
    table = parameter_table(parts.config)
    state = TrainingState(parts.config, owners, {name: parts.steps[name] for name in table})
    read: dict[str, list[Tensor]] = {name: [] for name, spec in table.items() if spec.trainable}
    for kind in TENSORS:
        local = parts.columns.pop(kind)
        for name, tensors in read.items():
            whole = _collect(table[name], parts.spans[name], local.get(name), owners[name])
            if whole is not None:
                tensors.append(whole)
        del local
        return_freed_memory()
    for name, owner in owners.items():
        if owner == rank:
            trained = name in read
            state.records[name] = Record.of(read[name], state.steps[name]) if trained else parts.frozen[name]
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


def _gather_spans(local: dict[str, Fragment], model: BertForPreTraining) -> dict[str, dict[int, Span]]:
    """Which rank contributes which elements of each parameter: every element comes from one rank, not from replicas."""
    table = parameter_table(model.config)
    layout = ParallelLayout.current()
    mine = {name: (model.tp.rank, fragment.start, fragment.numel) for name, fragment in local.items()}
    gathered: list[dict[str, Span]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, mine)
    spans: dict[str, dict[int, Span]] = {name: {} for name in table}
    for rank, held in enumerate(gathered):
        for name, span in held.items():
            replicated = table[name].tensor_parallel_axis is None and span[0] > 0
            if not replicated and span not in spans[name].values():
                spans[name][rank] = span
    for name, spec in table.items():
        if not spec.trainable:
            continue
        num_shards = 1 if spec.tensor_parallel_axis is None else layout.tensor_parallel
        found = sum(numel for _, _, numel in spans[name].values())
        expected = num_shards * torch.Size(local_shape(spec, layout.tensor_parallel)).numel()
        assert found == expected, f"{name}: fragments hold {found} of {expected} elements"
    return spans


_NOTHING = (torch.empty(0),) * 3


def _collect(spec: ParameterSpec, spans: dict[int, Span], part: Tensor | None, owner: int) -> Tensor | None:
    """The whole tensor on its owner, from the parts that the ranks in `spans` hold; None elsewhere. Collective."""
    if dist.get_rank() != owner:
        if dist.get_rank() in spans:
            assert part is not None
            dist.send(part.to(device()), owner)
        return None
    tp_size = 1 + max(tp_rank for tp_rank, _, _ in spans.values())
    shards = [torch.empty(local_shape(spec, tp_size)) for _ in range(tp_size)]
    for source, (tp_rank, start, numel) in spans.items():
        received = part if source == owner else torch.empty(numel, device=device())
        assert received is not None
        if source != owner:
            dist.recv(received, source)
        shards[tp_rank].view(-1)[start : start + numel].copy_(received)
    return unshard(spec, shards)
