"""Where a DeepSpeed engine keeps each parameter's fp32 master and moments on this rank, under every ZeRO stage.

The only file that knows DeepSpeed 0.19.8's partitions. It hands out *fragments*: flat views that can be read and
written in place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.config import ZeroStageEnum
from torch import Tensor, nn

from growth.state import MOMENTS
from model.parallel.division import Cut


@dataclass(frozen=True)
class Place:
    """Where this rank keeps its part of one parameter: `numel` elements of a flat tensor the optimizer steps on."""

    name: str
    flat: Tensor
    offset: int
    """Of the part's first element in `flat`."""
    start: int
    """Of the same element in the parameter's flattened shard."""
    numel: int

    def of(self, flat: Tensor) -> Tensor:
        """The part in a tensor laid out as `flat`, as a view."""
        return flat.data.view(-1).narrow(0, self.offset, self.numel)


@dataclass(frozen=True)
class Fragment:
    """This rank's part of one parameter's state: elements start .. start + numel of its flattened shard."""

    start: int
    weight: Tensor  # [numel] fp32 view of the master weight
    exp_avg: Tensor  # [numel]
    exp_avg_sq: Tensor | None  # [numel]; None where the optimizer keeps one moment

    @property
    def numel(self) -> int:
        return self.weight.numel()

    def tensors(self) -> list[Tensor]:
        return [tensor for tensor in (self.weight, self.exp_avg, self.exp_avg_sq) if tensor is not None]


def places(engine: DeepSpeedEngine) -> list[Place]:
    """The parts of parameters this rank holds, in model order; parameters of which it holds nothing are absent.

    Under stage 0 every data-parallel rank holds the whole shard.
    """
    stage = engine.zero_optimization_stage()
    if stage == ZeroStageEnum.disabled:
        found = _stage0_places(engine)
    elif stage == ZeroStageEnum.weights:
        found = _stage3_places(engine)
    else:
        found = _stage12_places(engine)
    return [place for place in found if place.numel]


def fragments(engine: DeepSpeedEngine) -> dict[str, Fragment]:
    """The state at every place, by parameter name. `prime_optimizer` must have run."""
    state = basic_optimizer(engine).state

    def fragment(place: Place) -> Fragment:
        exp_avg, exp_avg_sq = (state[place.flat].get(key) for key in MOMENTS)
        squares = None if exp_avg_sq is None else place.of(exp_avg_sq)
        return Fragment(place.start, place.of(place.flat), place.of(exp_avg), squares)

    return {place.name: fragment(place) for place in places(engine)}


def cuts(engine: DeepSpeedEngine) -> dict[str, Cut]:
    """How the data-parallel ranks divide each trained parameter, on every rank alike. At stage 0 each has all."""
    stage = engine.zero_optimization_stage()
    trained = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    if stage == ZeroStageEnum.disabled:
        return {name: Cut(0, parameter.numel(), copied=True) for name, parameter in trained.items()}
    if stage == ZeroStageEnum.weights:
        return {name: Cut(0, parameter.ds_tensor.ds_numel) for name, parameter in trained.items()}
    return _stage12_cuts(engine.optimizer, trained)


def prime_optimizer(engine: DeepSpeedEngine) -> None:
    """Creates the optimizer's state (zeros), which DeepSpeed leaves to the first step, and sets its steps.

    Each parameter group carries the `initial_step` its tensors have taken before this engine.
    """
    optimizer = basic_optimizer(engine)
    for flat, group in _flat_parameters(engine):
        step = torch.tensor(float(group["initial_step"]), dtype=torch.float32, device=_step_device(group, flat))
        optimizer.state[flat] = {"step": step} | {
            key: torch.zeros_like(flat.data, dtype=torch.float32, requires_grad=False) for key in group["moments"]
        }


def kept_moments(engine: DeepSpeedEngine) -> dict[str, tuple[str, ...]]:
    """Which moments the optimizer keeps of each parameter, by name; of frozen ones, which it would."""
    return vars(engine)["kept_moments"]


def num_step_calls(engine: DeepSpeedEngine) -> int:
    """How often DeepSpeed calls the inner optimizer in one step: once for each flat tensor; at stage 0, once in all."""
    if engine.zero_optimization_stage() == ZeroStageEnum.disabled:
        return 1
    return len(list(_flat_parameters(engine)))


def publish(engine: DeepSpeedEngine, index: int) -> None:
    """Copies a master that changed after its call to `step` to the weights that the model computes with.

    `index` is that call's number in the step. DeepSpeed itself copies (and later gathers) right after each call.
    """
    if engine.zero_optimization_stage() == ZeroStageEnum.weights:
        engine.optimizer._reassign_or_swap_out_partitioned_parameters(index)
    elif engine.zero_optimization_stage() != ZeroStageEnum.disabled:
        _publish_stage12(engine, index)


def publish_all(engine: DeepSpeedEngine) -> None:
    """Copies every master to the weights that the model computes with, on all ranks. Collective."""
    stage, named = engine.zero_optimization_stage(), dict(engine.module.named_parameters())
    if stage in (ZeroStageEnum.optimizer_states, ZeroStageEnum.gradients):
        engine.optimizer.update_lp_params()
        return
    with torch.no_grad():
        for place in places(engine):
            parameter = named[place.name]
            master = place.of(place.flat)
            if stage == ZeroStageEnum.weights:
                parameter.ds_tensor.data[: place.numel].copy_(master)
            else:
                parameter.copy_(master.view_as(parameter))


def write_model_weight(engine: DeepSpeedEngine, parameter: Any, shard: Tensor) -> None:
    """Sets the weights that the model computes with, from the whole flattened tensor-parallel shard, any float dtype.

    `parameter` is the model's; under stage 3 it carries DeepSpeed's attributes.
    """
    with torch.no_grad():
        if engine.zero_optimization_stage() == ZeroStageEnum.weights:
            local = _stage3_part(engine, parameter, shard)
            parameter.ds_tensor.data[: local.numel()].copy_(local)
        else:
            parameter.copy_(shard.view_as(parameter))


def model_weights(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """What this rank holds of the weights that the model computes with: its whole shard, under stage 3 a part of it."""
    named = dict(engine.module.named_parameters())
    if engine.zero_optimization_stage() != ZeroStageEnum.weights:
        return {name: parameter.data for name, parameter in named.items()}
    numels = {name: _stage3_span(engine, parameter)[1] for name, parameter in named.items()}
    return {name: named[name].ds_tensor.data.view(-1)[:numel] for name, numel in numels.items()}


def basic_optimizer(engine: DeepSpeedEngine) -> torch.optim.Optimizer:
    """The optimizer inside DeepSpeed's ZeRO or 16-bit wrapper."""
    return engine.basic_optimizer


def current_steps(engine: DeepSpeedEngine) -> dict[str, int]:
    """Steps each parameter has taken, by name. The same on every rank."""
    optimizer = basic_optimizer(engine)
    step_of_group = {
        group["name"]: int(optimizer.state[flat]["step"].item()) for flat, group in _flat_parameters(engine)
    }
    return {name: step_of_group[group["name"]] for group in optimizer.param_groups for name in group["parameter_names"]}


def destroy(engine: DeepSpeedEngine) -> None:
    """Destroys the engine. Its memory is free once the caller has dropped its references and run `gc.collect()`."""
    stage = engine.zero_optimization_stage()
    engine.destroy()
    if stage == ZeroStageEnum.weights:
        _forget_stage3_globals()


def _forget_stage3_globals() -> None:
    """Removes what DeepSpeed 0.19.8 leaves of a ZeRO-3 engine for the rest of the process.

    Two of its references keep the engine alive: the root module is pushed on a global stack and never
    popped, and an `lru_cache` on a method of the parameter coordinator holds its instances. And torch's `linear` stays
    replaced by one that rounds differently: a run that continued at another stage would not resume to the same bits.
    This is process-wide: no other ZeRO-3 engine may be live. `tests/pretrain/engine/test_leak.py` fails when a
    DeepSpeed release no longer needs this.
    """
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses

    torch.nn.functional.linear = getattr(InsertPostInitMethodToModuleSubClasses, "linear_bk", nn.functional.linear)
    parameter_offload.FWD_MODULE_STACK.clear()
    _forget_releases()


def keep_weights_for_the_backward_pass(engine: DeepSpeedEngine) -> None:
    """Under stage 3, what a module's pass releases follows from the order of modules that was recorded.

    DeepSpeed 0.19.8 caches that by the module's place in the order, and keeps the cache when it records another one. A
    validation before the first step is of forward passes alone, after which nothing is needed again. From then on every
    forward pass would release all weights, and every backward pass gather them one by one, with nothing ahead.
    `tests/pretrain/engine/test_weights_gathered.py` fails when a DeepSpeed release no longer needs this.
    """
    if engine.zero_optimization_stage() != ZeroStageEnum.weights:
        return
    coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
    invalidate = coordinator._invalidate_trace

    def invalidate_and_forget() -> None:
        invalidate()
        _forget_releases()

    coordinator._invalidate_trace = invalidate_and_forget


def _forget_releases() -> None:
    """Empties the cache of what to release, in which all coordinators are."""
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    cached = PartitionedParameterCoordinator._PartitionedParameterCoordinator__params_to_release
    while cached is not None and not hasattr(cached, "cache_clear"):  # under decorators
        cells = (cell.cell_contents for cell in cached.__closure__ or ())
        cached = next((content for content in cells if callable(content)), None)
    if cached is not None:
        cached.cache_clear()


# ---- stage 0: whole tensors ----


def _stage0_places(engine: DeepSpeedEngine) -> Iterator[Place]:
    masters = _stage0_masters(engine)
    for name, parameter in engine.module.named_parameters():
        if parameter in masters:
            yield Place(name, masters[parameter], offset=0, start=0, numel=parameter.numel())


def _stage0_masters(engine: DeepSpeedEngine) -> dict[nn.Parameter, Tensor]:
    """The fp32 master of every trained parameter: a copy for 16-bit weights, otherwise the parameter itself."""
    wrapper = engine.optimizer
    if isinstance(wrapper, FP16_UnfusedOptimizer):
        pairs = zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
        return {low: high for lows, highs in pairs for low, high in zip(lows, highs, strict=True)}
    return {parameter: parameter for group in wrapper.param_groups for parameter in group["params"]}


# ---- stages 1 and 2: one flat partition for each parameter group ----


def _stage12_places(engine: DeepSpeedEngine) -> Iterator[Place]:
    for name, parameter in engine.module.named_parameters():
        mapping = getattr(parameter, "_hp_mapping", None)
        if mapping is not None:
            flat = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            address = mapping.hp_fragment_address
            yield Place(name, flat, address.start, mapping.lp_fragment_address.start, address.numel)


def _stage12_cuts(wrapper: Any, trained: dict[str, nn.Parameter]) -> dict[str, Cut]:
    found: dict[nn.Parameter, Cut] = {}
    groups = zip(wrapper.round_robin_bit16_groups, wrapper.round_robin_bit16_offsets, strict=True)
    for group, (parameters, starts) in enumerate(groups):
        run = wrapper.partition_size[group]
        found |= {parameter: Cut(start, run) for parameter, start in zip(parameters, starts, strict=True)}
    return {name: found[parameter] for name, parameter in trained.items()}


def _publish_stage12(engine: DeepSpeedEngine, group: int) -> None:
    wrapper = engine.optimizer
    partition = wrapper.parallel_partitioned_bit16_groups[group]
    own = partition[dist.get_rank(wrapper.real_dp_process_group[group])]
    own.data.copy_(wrapper.single_partition_of_fp32_groups[group].data)


# ---- stage 3: every parameter split over the data-parallel ranks, packed into sub-groups ----


def _stage3_places(engine: DeepSpeedEngine) -> Iterator[Place]:
    zero = engine.optimizer
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            sub_group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
            yield Place(name, zero.fp32_partitioned_groups_flat[sub_group], offset, *_stage3_span(engine, parameter))


def _stage3_span(engine: DeepSpeedEngine, parameter: Any) -> tuple[int, int]:
    """First element and number of elements this rank holds: equal parts, the last ones short or empty."""
    rank = engine.optimizer._get_param_partition_rank(parameter)
    return Cut(0, parameter.ds_tensor.ds_numel).span(rank, parameter.ds_numel)


def _stage3_part(engine: DeepSpeedEngine, parameter: Any, shard: Tensor) -> Tensor:
    start, numel = _stage3_span(engine, parameter)
    return shard.view(-1).narrow(0, start, numel)


def _flat_parameters(engine: DeepSpeedEngine) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Every tensor the inner optimizer steps on, with its parameter group."""
    stage, wrapper, groups = engine.zero_optimization_stage(), engine.optimizer, basic_optimizer(engine).param_groups
    if stage == ZeroStageEnum.weights:
        for sub_group, flat in enumerate(wrapper.fp32_partitioned_groups_flat):
            yield flat, groups[wrapper.sub_group_to_group_id[sub_group]]
    elif stage == ZeroStageEnum.disabled:
        for group in groups:
            yield from ((parameter, group) for parameter in group["params"])
    else:
        yield from zip(wrapper.single_partition_of_fp32_groups, groups, strict=True)


def _step_device(group: dict[str, Any], flat: Tensor) -> torch.device:
    """torch's fused and capturable optimizers want the step on the parameter's device, the others on the CPU."""
    return flat.device if group.get("fused") or group.get("capturable") else torch.device("cpu")
