"""Moves state between an engine's fragments and the ranks that own the logical tensors, one parameter at a time."""

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from growth.state import Fetch, Record, TrainingState, assign_owners
from model.bert import BertForPreTraining
from model.parallel import ParallelLayout, local_shape, unshard
from model.parameters import ParameterSpec, parameter_table
from pretrain.engine.distributed import device
from pretrain.engine.zero import Fragment, current_steps, fragments, write_model_weight

Span = tuple[int, int, int]
"""Tensor-parallel rank, start and number of elements of a fragment in its flattened shard."""


def read_state(engine: DeepSpeedEngine) -> TrainingState:
    """The engine's state in logical form, each record on its owner, on the CPU. Collective.

    Fragments go straight to the owner: no rank ever holds more than its own records and one more.
    """
    model: BertForPreTraining = engine.module
    table = parameter_table(model.config)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    local = fragments(engine)
    spans = _gather_spans(local, model)  # spans[name] = {rank: span}
    frozen = frozen_records(engine)
    steps = current_steps(engine) | {name: record.step for name, record in frozen.items()}
    state = TrainingState(model.config, assign_owners(model.config, world_size), {name: steps[name] for name in table})
    for name, spec in table.items():
        owner = state.owners[name]
        if not spec.trainable:
            if rank == owner:
                state.records[name] = frozen[name]
            continue
        contributors = {source: span for source, span in spans[name].items() if source != owner}
        if rank == owner:
            shards = _empty_shards(spec, model.tp.size)
            if rank in spans[name]:
                _place(shards, spans[name][rank], _packed(local[name]))
            for source, span in contributors.items():
                message = torch.empty(3, span[2], device=device())
                dist.recv(message, source)
                _place(shards, span, message)
            state.records[name] = _assemble(spec, shards, state.steps[name])
        elif rank in contributors:
            dist.send(_packed(local[name]).to(device()), owner)
    return state


def fetch_from(state: TrainingState) -> Fetch:
    """Gives any record on every rank, by broadcast from its owner. Collective: all ranks ask for the same names."""
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
        return Record(*(tensor.view(spec.shape) for tensor in message.cpu()), step=state.steps[name])

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
    """What DeepSpeed does not hold of parameters that are not trained: fp32 weights, moments and steps, to be found
    again when they are trained. On the owner; the other ranks know only the step."""
    return vars(engine).setdefault("frozen_records", {})


def _gather_spans(local: dict[str, Fragment], model: BertForPreTraining) -> dict[str, dict[int, Span]]:
    """Who contributes which elements of each parameter: every element comes from one rank, replicas are left out."""
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


def _packed(fragment: Fragment) -> Tensor:  # [3, numel]
    return torch.stack(fragment.tensors())


def _empty_shards(spec: ParameterSpec, tp_size: int) -> Tensor:
    """[tensor-parallel ranks (1 if not cut), 3, elements of a shard]"""
    num_shards = 1 if spec.tensor_parallel_axis is None else tp_size
    return torch.empty(num_shards, 3, torch.Size(local_shape(spec, tp_size)).numel())


def _place(shards: Tensor, span: Span, message: Tensor) -> None:
    tp_rank, start, numel = span
    shards[tp_rank, :, start : start + numel].copy_(message)


def _assemble(spec: ParameterSpec, shards: Tensor, step: int) -> Record:
    shape = local_shape(spec, len(shards))
    return Record(
        *(unshard(spec, [part.view(shape) for part in shards[:, kind]]).clone() for kind in range(3)), step=step
    )
