"""Moves state between an engine's fragments and the ranks that own the logical tensors."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.config import ZeroStageEnum
from torch import Tensor

from growth.state import MOMENTS, TENSORS, Record, TrainingState, assign_owners
from model.bert import BertForPreTraining
from model.config import BertConfig
from model.parallel.division import Division
from model.parallel.layout import ParallelLayout
from model.parameter_spec import ParameterSpec
from model.parameters import parameter_table
from pretrain.engine.distributed import device
from pretrain.engine.gather import BATCH, batches, gather
from pretrain.engine.host_copy import fill, moved
from pretrain.engine.host_memory import return_freed_memory
from pretrain.engine.scatter import scatter
from pretrain.engine.spread import Plan
from pretrain.engine.zero import (
    Fragment,
    current_steps,
    cuts,
    fragments,
    kept_moments,
    places,
    publish_all,
    write_model_weight,
)


@dataclass
class EngineParts:
    """The engine's state as its ranks hold it, in partitions. Outlives the engine."""

    config: BertConfig
    steps: dict[str, int]
    division: Division
    """Which rank holds which elements of each parameter that is trained."""
    columns: dict[str, dict[str, Tensor]]
    """This rank's parts, [numel] each: {"weight": {name: part}, "exp_avg": ...}."""
    with_one_moment: frozenset[str]
    """Parameters of which no second moment is kept, on any rank."""
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
    one = frozenset(name for name, moments in kept_moments(engine).items() if moments != MOMENTS)
    columns = {kind: {name: getattr(fragment, kind) for name, fragment in local.items()} for kind in TENSORS}
    return EngineParts(config, steps, division_of(engine), columns, one, frozen)


def assemble(parts: EngineParts) -> TrainingState:
    """The logical state, each record on its owner, on the CPU. Collective; empties `parts`.

    Parts go straight to the owner: no rank ever holds more than its own records and what travels at once. Weights are
    read first, then each moment, so partitions that nothing else holds are freed on the way.
    """
    owners = assign_owners(parts.config, dist.get_world_size())
    table = parameter_table(parts.config)
    steps = {name: parts.steps[name] for name in table}
    state = TrainingState(parts.config, owners, steps, with_one_moment=parts.with_one_moment)
    read: dict[str, list[Tensor]] = defaultdict(list)
    for kind in TENSORS:
        local = parts.columns.pop(kind)
        kept = [name for name in parts.division.cuts if kind in state.kinds(name)]
        for name, whole in gather(kept, parts.division, owners, local):
            read[name].append(whole)
        del local
        return_freed_memory()
    own = [name for name, owner in owners.items() if owner == dist.get_rank()]
    for name in own:
        state.records[name] = Record.of(read[name], state.steps[name]) if name in read else parts.frozen[name]
    return state


def write_state(engine: DeepSpeedEngine, plan: Plan, drops: bool = False) -> None:
    """Fills a new engine with the records of a plan. Collective. `drops`: the old ones go as soon as none needs them.

    Each record is computed by the rank that owns it, and goes from there to the ranks that hold its parts: some records
    at a time, together with what they are made of not larger than the largest.
    """
    table, local = parameter_table(plan.change.target), fragments(engine)
    division = division_of(engine)
    largest = max(spec.numel for spec in table.values())
    return_freed_memory()  # of building the engine
    for names in batches(table, plan.numels(), min(BATCH, largest)):
        _write_records(engine, plan, names, division, local)
        if drops:
            plan.drop(names)
        return_freed_memory()
    publish_all(engine)


def _write_records(
    engine: DeepSpeedEngine, plan: Plan, names: Sequence[str], division: Division, local: dict[str, Fragment]
) -> None:
    records, trained = plan.records(names), [name for name in names if division.table[name].trainable]
    if engine.zero_optimization_stage() == ZeroStageEnum.disabled:
        _write_whole(engine, plan, trained, records, local)
    else:
        for number, kind in enumerate(TENSORS):
            kept = [name for name in trained if kind in plan.kinds(name)]
            own = {name: records[name].tensors()[number] for name in kept if name in records}
            for name, part in scatter(kept, division, plan.owners, own):
                fill(getattr(local[name], kind), part)
    for name in names:
        if name not in trained:
            _write_frozen(engine, plan, name, records.get(name))


def _write_whole(
    engine: DeepSpeedEngine,
    plan: Plan,
    names: Iterable[str],
    records: Mapping[str, Record],
    local: Mapping[str, Fragment],
) -> None:
    """Where every rank holds all."""
    table, tp = parameter_table(plan.change.target), engine.module.tp
    for name in names:
        for number, target in enumerate(local[name].tensors()):
            own = records[name].tensors()[number] if name in records else None
            target.copy_(tp.shard(table[name], _from_owner(own, table[name], plan.owners[name])).reshape(-1))


def _write_frozen(engine: DeepSpeedEngine, plan: Plan, name: str, record: Record | None) -> None:
    """Every rank computes with the weight. The owner keeps the record."""
    model: BertForPreTraining = engine.module
    spec = parameter_table(model.config)[name]
    frozen_records(engine)[name] = record or Record.of(_NOTHING, plan.steps[name])
    weight = _from_owner(record.weight if record else None, spec, plan.owners[name])
    write_model_weight(engine, model.get_parameter(name), model.tp.shard(spec, weight).reshape(-1))


def _from_owner(own: Tensor | None, spec: ParameterSpec, owner: int) -> Tensor:
    """A tensor of `spec.shape` that one rank has, on all ranks."""
    tensor = torch.empty(spec.shape, device=device()) if own is None else moved(own, device()).contiguous()
    dist.broadcast(tensor, owner)
    return tensor


def frozen_records(engine: DeepSpeedEngine) -> dict[str, Record]:
    """fp32 weights, moments and steps of frozen parameters. DeepSpeed does not hold them; they may be trained later.

    The owner has the record; the other ranks know only the step.
    """
    return vars(engine).setdefault("frozen_records", {})


def division_of(engine: DeepSpeedEngine) -> Division:
    """Which rank holds which elements of the parameters that are trained."""
    table, layout = parameter_table(engine.module.config), ParallelLayout.current()
    found = cuts(engine)
    division = Division(table, layout, {name: found[name] for name, spec in table.items() if spec.trainable})
    rank, here = dist.get_rank(), {place.name: (place.start, place.numel) for place in places(engine)}
    for name in division.cuts:
        start, numel = division.held(name, rank)
        held = here.get(name, (0, 0))
        assert held[1] == numel and (not numel or held[0] == start), f"{name}: {held} here, not {(start, numel)}"
    return division


_NOTHING = (torch.empty(0),) * 3
