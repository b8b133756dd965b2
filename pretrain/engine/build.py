"""Builds a DeepSpeed engine for one stage: model, parameter groups, optimizer, configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS
from deepspeed.utils import set_z3_leaf_modules

from model.bert import BertForPreTraining
from model.block import Block, whole_block
from model.config import BertConfig
from model.linear import multiply_in_fp8
from model.parallel.layout import ModelParallelUnit, ParallelLayout
from model.parallel.tensor import TensorParallel
from model.parameters import parameter_table
from pretrain.engine.attach import attach_optimizer
from pretrain.engine.clipping import clip_before_reduction
from pretrain.engine.compilation import compile_blocks
from pretrain.engine.config_file import DEFAULT_BUCKET, offloads_optimizer, overlaps_messages
from pretrain.engine.distributed import device
from pretrain.engine.norm import copy_norm_before_update, mark_split_gradients, speed_up_norm
from pretrain.engine.unused import skip_unused_work
from pretrain.engine.without_compiler import keep_compiler_out
from pretrain.engine.zero import keep_weights_for_the_backward_pass, prime_optimizer
from pretrain.optim.buckets import gradient_buckets
from pretrain.optim.groups import GroupRules, parameter_groups
from pretrain.optim.options import MakeOptimizer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class EngineSettings:
    """Everything about an engine that is not the model's shape."""

    layout: ParallelLayout
    micro_batch: int
    accumulation: int
    precision: str
    make_optimizer: MakeOptimizer
    groups: GroupRules = field(default_factory=GroupRules)
    grad_clip: float = 1.0
    clip_bucket_mb: float | None = None
    """Every data-parallel rank clips its own gradient before they are averaged, in buckets of this size in MB."""
    sequence_parallel: bool = False
    """Tensor-parallel ranks divide the tokens among them outside their parallel regions."""
    recompute: bool = False
    """Layers are recomputed in the backward pass; only their inputs are kept."""
    attention_kernel: str | None = None
    """The one of `model.attention_kernels` to prefer."""
    kernel_for_runs: str | None = None
    """The one to prefer for rows with runs of tokens."""
    compile: bool = False
    """Blocks run through torch.compile."""
    fp8: bool = False
    """Linear layers of the blocks multiply in FP8."""
    deepspeed: Mapping[str, Any] = field(default_factory=dict)
    """The DeepSpeed JSON: ZeRO stage, offload, communication. `deepspeed_config` fills in what the recipe owns."""


def build_engine(config: BertConfig, settings: EngineSettings, steps: Mapping[str, int]) -> DeepSpeedEngine:
    """An engine with empty weights and zero moments, ready for `write_state`. Collective.

    `steps` holds the optimizer steps that each parameter has taken. Parameters with different steps go into different
    groups, because DeepSpeed flattens a group and keeps one step for it.
    """
    tp = replace(
        settings.layout.install(),
        sequence_parallel=settings.sequence_parallel,
        gathers_again=not settings.recompute,  # recomputation gathers again anyway
    )
    model = build_model(config, tp, PRECISIONS[settings.precision])
    model.recompute = settings.recompute
    if settings.fp8:
        multiply_in_fp8(model.blocks)
    model.prefer_kernel(settings.attention_kernel, settings.kernel_for_runs)
    in_whole_blocks = gather_whole_blocks(model)
    if settings.compile:
        compile_blocks(model)
    else:
        keep_compiler_out()
    optimizer = settings.make_optimizer(parameter_groups(model, steps, settings.groups))
    if type(optimizer) not in ZERO_SUPPORTED_OPTIMIZERS:
        ZERO_SUPPORTED_OPTIMIZERS.append(type(optimizer))  # or DeepSpeed warns that it is untested
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=deepspeed_config(
            settings, sum(p.numel() for p in model.parameters() if p.requires_grad), in_whole_blocks
        ),
        mpu=ModelParallelUnit(),
        dist_init_required=False,
    )
    engine.kept_moments = {name: settings.groups.moments_of(spec) for name, spec in parameter_table(config).items()}
    prime_optimizer(engine)
    attach_optimizer(engine)
    mark_split_gradients(engine)
    speed_up_norm(engine)
    copy_norm_before_update(engine)
    skip_unused_work(engine)
    if settings.clip_bucket_mb is not None:
        clip_before_reduction(engine, gradient_buckets(config, settings.clip_bucket_mb), settings.grad_clip)
    keep_weights_for_the_backward_pass(engine)
    return engine


def build_model(config: BertConfig, tp: TensorParallel, dtype: torch.dtype) -> BertForPreTraining:
    """The model on this rank's device, with uninitialized weights: they will be overwritten."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device():
            return BertForPreTraining(config, tp)
    finally:
        torch.set_default_dtype(default)


def gather_whole_blocks(model: BertForPreTraining) -> bool:
    """Lets ZeRO 3 gather and reduce a block in one message instead of one for each of its parts, where it can.

    DeepSpeed does so around a block's forward and backward pass, so each block must run exactly once, whole, in both.
    That rules out layers that share a block, variants that call parts of one, frozen layers and recomputation. Returns
    whether it is possible.
    """
    config = model.config
    possible = (
        0 < config.num_blocks == config.layers
        and not config.frozen_layers
        and not model.recompute
        and all(whole_block(layer) for layer in model.layers)
    )
    if possible:
        set_z3_leaf_modules(model, [Block])
    return possible


def deepspeed_config(settings: EngineSettings, num_trained: int, in_whole_blocks: bool) -> dict[str, Any]:
    """The user's JSON, with every value filled in that the recipe, the device or the model decides.

    No bucket is larger than the model. `in_whole_blocks`: ZeRO 3 gathers a block in one message. Biases then travel
    with their block; otherwise they stay whole on every rank (DeepSpeed's default), which takes a message for each of
    them at the end of a step.
    """
    config = dict(settings.deepspeed)
    zero = dict(config.get("zero_optimization", {}))
    zero["reduce_bucket_size"] = min(zero.get("reduce_bucket_size", DEFAULT_BUCKET), num_trained)
    if in_whole_blocks:
        zero.setdefault("stage3_param_persistence_threshold", 0)
    on_gpu = device().type == "cuda"
    zero["overlap_comm"] = overlaps_messages(settings.deepspeed, on_gpu, settings.layout.data_parallel)
    if offloads_optimizer(config):
        zero["offload_optimizer"] = {"pin_memory": on_gpu, **zero["offload_optimizer"]}
    config.setdefault("timers", {"throughput": {"enabled": False}})  # it waits for the device twice a micro-batch
    return config | {
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation,
        "train_batch_size": settings.micro_batch * settings.accumulation * settings.layout.data_parallel,
        "gradient_clipping": settings.grad_clip if settings.clip_bucket_mb is None else 0.0,
        "bf16": {"enabled": settings.precision == "bf16"},
        "fp16": {**config.get("fp16", {}), "enabled": settings.precision == "fp16"},
        "zero_allow_untested_optimizer": True,  # ours are tested under every stage
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW is as fast on the CPU and needs no compiler
        "steps_per_print": 2**31,
    }
