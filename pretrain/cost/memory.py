"""Bytes per rank: the training state under ZeRO, tensor parallelism and precision, and what a step adds.

    peak = weights + gradients + optimizer + buffers + activations (or what replaces them)           on a GPU
    peak = the same, with HEAP_SHARE more for activations, plus what the process itself needs        on a CPU

A frozen teacher's weights come on top. docs/results/speed.md compares this with measurements. A GPU also holds what
torch's allocator does not count: `held_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from growth.state import MOMENTS
from model.config import BertConfig
from model.parameters import ParameterSpec, parameter_table
from pretrain.engine.config_file import DEFAULT_BUCKET, offloads_optimizer, overlaps_messages

if TYPE_CHECKING:
    from pretrain.recipe import ResolvedStage

FP32_BYTES = 4

HEAP_SHARE = 0.35
"""Overhead of glibc's heap on a CPU, as a share of activations: tensors of many sizes are freed and reallocated
(measured)."""

PROCESS_BYTES = 50 * 2**20
"""Memory that DeepSpeed and oneDNN need for themselves in a CPU process that trains (measured)."""

GLOO_BYTES = 20 * 2**20
"""Memory of gloo's threads and buffers if there are several ranks (measured)."""


CUDA_BYTES = 600 * 2**20
"""Memory of a GPU that a process takes before its first tensor: CUDA's context and kernels (estimated)."""

NCCL_BYTES = 400 * 2**20
"""Buffers of NCCL if there are several ranks (estimated)."""

ALLOCATOR_SHARE = 0.12
"""What torch's allocator reserves beyond what tensors take, as a share of it (8.6 GiB for 7.7 of BERT-large)."""


@dataclass(frozen=True)
class StateBytes:
    """The training state on one rank; `host` is what offload keeps in CPU memory."""

    weights: int
    gradients: int
    optimizer: int
    host: int = 0
    teacher: int = 0
    """Weights of a frozen model that the one in training is aligned with."""

    @property
    def device(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.teacher


def num_parameters(config: BertConfig) -> int:
    """Parameters of the whole model, without vocabulary padding; a shared block counts once."""
    return sum(spec.numel for spec in parameter_table(config).values())


def parameters_per_tensor_rank(config: BertConfig, tensor_parallel: int, trained_only: bool = False) -> int:
    return _count(config, tensor_parallel, lambda spec: spec.trainable or not trained_only)


def _count(config: BertConfig, tensor_parallel: int, counts: Callable[[ParameterSpec], bool]) -> int:
    return sum(numel_on_rank(spec, tensor_parallel) for spec in parameter_table(config).values() if counts(spec))


def numel_on_rank(spec: ParameterSpec, tensor_parallel: int) -> int:
    """Elements of one tensor-parallel rank's part, vocabulary padding included."""
    return prod(spec.padded_shape) // (1 if spec.tensor_parallel_axis is None else tensor_parallel)


def state_bytes(
    config: BertConfig,
    zero_stage: int,
    precision: str,
    tensor_parallel: int,
    data_parallel: int,
    offload_optimizer: bool = False,
    moments_of: Callable[[ParameterSpec], tuple[str, ...]] = lambda spec: MOMENTS,
    whole_gradients: bool = False,
) -> StateBytes:
    """Weights and gradients in the training precision, the fp32 moments that are kept (`moments_of`), and fp32 masters.

    DeepSpeed keeps separate masters except at ZeRO 0 in fp32, where the weights are the masters. ZeRO 1 divides the
    optimizer state over the data-parallel ranks, ZeRO 2 also the gradients, ZeRO 3 also the weights. `whole_gradients`:
    nothing divides them (a rank clips its own). Frozen parameters have neither gradients nor moments.
    """
    count = parameters_per_tensor_rank(config, tensor_parallel)
    trained = parameters_per_tensor_rank(config, tensor_parallel, trained_only=True)
    element = FP32_BYTES if precision == "fp32" else 2
    masters = 0 if precision == "fp32" and zero_stage == 0 else trained
    with_second = _count(config, tensor_parallel, lambda spec: spec.trainable and moments_of(spec) == MOMENTS)

    def share(count: int, from_stage: int) -> int:
        return -(-count // data_parallel) if zero_stage >= from_stage else count

    optimizer = FP32_BYTES * sum(share(count, from_stage=1) for count in (masters, trained, with_second))
    return StateBytes(
        weights=element * share(count, from_stage=3),
        gradients=element * (trained if whole_gradients else share(trained, from_stage=2)),
        optimizer=0 if offload_optimizer else optimizer,
        host=optimizer if offload_optimizer else 0,
    )


@dataclass(frozen=True)
class StepBytes:
    """What a step needs on one rank in addition to the training state."""

    activations: int
    """Saved by the forward pass for the backward pass, including the scores over the vocabulary."""
    buffers: int
    """Copies of gradients (and, under ZeRO 3, the weights that DeepSpeed gathers)."""
    afterwards: int = 0
    """What replaces the activations once they are freed."""
    process: int = 0
    """On a CPU: what the libraries need for themselves."""


def peak_bytes(held: StateBytes, step: StepBytes, on_cpu: bool) -> int:
    """The peak on one rank by the formula above, beyond what Python and its libraries take."""
    activations = round((1 + HEAP_SHARE * on_cpu) * step.activations)
    total = held.device + max(activations, step.afterwards) + step.buffers + step.process
    return total + held.host if on_cpu else total


def held_bytes(peak: int, num_ranks: int) -> int:
    """Of a GPU's memory, by a rank whose tensors take `peak` bytes at most: what nvidia-smi shows."""
    return round((1 + ALLOCATOR_SHARE) * peak) + CUDA_BYTES + NCCL_BYTES * (num_ranks > 1)


def stage_bytes(stage: ResolvedStage, on_cpu: bool) -> tuple[StateBytes, StepBytes]:
    """The training state of a stage on one rank, and what a step adds."""
    config, tensor_parallel, data_parallel = stage.config, stage.tensor_parallel, stage.data_parallel
    zero = stage.deepspeed["zero_optimization"]
    offloads = offloads_optimizer(stage.deepspeed)
    held = state_bytes(
        config,
        stage.zero_stage,
        stage.precision,
        tensor_parallel,
        data_parallel,
        offloads,
        stage.optimizer.chosen.group_rules.moments_of,
        stage.clips_on_ranks,
    )
    held = replace(held, teacher=teacher_bytes(stage))
    tokens = stage.micro_batch * stage.sequence
    predictions = round(tokens * stage.most_predicted)
    bucket = zero.get("reduce_bucket_size", DEFAULT_BUCKET)
    overlaps = overlaps_messages(stage.deepspeed, not on_cpu, data_parallel)
    return held, StepBytes(
        activation_bytes(
            config,
            tokens,
            stage.sequence,
            predictions,
            stage.precision,
            tensor_parallel,
            on_cpu,
            stage.recompute,
            stage.sequence_parallel,
        )
        + alignment_bytes(stage),
        buffer_bytes(
            config,
            stage.zero_stage,
            stage.precision,
            tensor_parallel,
            data_parallel,
            stage.accumulation,
            bucket,
            overlaps,
        ),
        fp32_gradient_bytes(config, stage.zero_stage, stage.precision, tensor_parallel)
        + stage.optimizer_work.scratch_numel * matrix_bytes(on_cpu),
        process_bytes(tensor_parallel * data_parallel, on_cpu),
    )


def process_bytes(num_ranks: int, on_cpu: bool) -> int:
    """On a CPU: what the libraries need for themselves in a process that trains."""
    return on_cpu * (PROCESS_BYTES + GLOO_BYTES * (num_ranks > 1))


def teacher_bytes(stage: ResolvedStage) -> int:
    """Weights of the frozen teacher that a layer is aligned with, on one rank; 0 without one, or where its shape is not
    known. ZeRO 3 divides those that run (pretrain/engine/frozen.py)."""
    if stage.align is None or stage.align.config is None:
        return 0
    share = stage.data_parallel if stage.zero_stage == 3 else 1

    def elements(spec: ParameterSpec) -> int:
        runs = spec.block is not None or spec.module.startswith("embeddings.")
        return -(-numel_on_rank(spec, stage.tensor_parallel) // (share if runs else 1))

    element = FP32_BYTES if stage.precision == "fp32" else 2
    return element * sum(map(elements, parameter_table(stage.align.config).values()))


def alignment_bytes(stage: ResolvedStage) -> int:
    """Of a micro-batch: the teacher's hidden states, and both sides of the cosines in fp32."""
    if stage.align is None or stage.align.config is None:
        return 0
    theirs, element = stage.align.config.hidden, FP32_BYTES if stage.precision == "fp32" else 2
    width = min(theirs, stage.config.hidden)
    return stage.micro_batch * stage.sequence * (element * theirs + 2 * FP32_BYTES * width)


def matrix_bytes(on_cpu: bool) -> int:
    """Of an element of the matrices that an optimizer multiplies: they travel, and are computed with, in bf16 on a GPU
    and in fp32 on a CPU."""
    return FP32_BYTES if on_cpu else 2


def activation_bytes(
    config: BertConfig,
    tokens: int,
    sequence: int,
    num_predictions: int,
    precision: str,
    tensor_parallel: int = 1,
    keeps_maps: bool = True,
    recompute: bool = False,
    sequence_parallel: bool = False,
) -> int:
    """Kept by one micro-batch of `tokens` tokens in rows of `sequence`, `num_predictions` of them masked.

    A layer keeps of every token 4 hidden vectors (the inputs of both branches and of both norms); what its attention
    keeps (`Shape.mixing_elements`: query, key, value and context, and a row of the map for each head where the map is
    computed as a whole, `keeps_maps`: on a CPU); and the feed-forward network's inner units before and after the
    activation, and those of a gate (`Shape.inner_elements`). Dropout adds a mask to each tensor that it touches. The
    head keeps a score of every word and its gradient.

    `recompute`: each layer keeps only its input, and the layer that is being computed again keeps everything. Tensor
    parallelism divides what lies inside its regions, `sequence_parallel` the hidden vectors between them as well. It
    gathers the inputs of both branches a second time in the backward pass; under `recompute` they stay whole.
    """
    element = FP32_BYTES if precision == "fp32" else 2
    parts = tensor_parallel if sequence_parallel else 1
    branch_inputs = 2 * config.hidden // (1 if recompute else parts)
    drops_hidden = config.hidden_dropout > 0
    inputs, layers = 0, []
    for layer in range(config.layers):
        block = config.block_of(layer)
        queries, keys = config.num_tokens(layer, sequence, num_predictions * sequence / tokens)
        cut = round(config.mixing_elements(block, config.mapped_keys(layer, keys), keeps_maps)) + config.inner_elements(
            block
        )
        of_a_token = branch_inputs + (2 + 2 * drops_hidden) * config.hidden // parts + cut // tensor_parallel
        kept = of_a_token * queries
        if queries < keys:  # what is looked at is kept apart: keys and values, their input, and its norm's
            width = config.block_heads(block) * config.head_dim
            kept += keys * config.hidden * (2 if config.norm == "pre" else 1) // parts
            kept += (keys - queries) * 2 * width // tensor_parallel
        layers.append(round(kept / sequence))
        inputs += round(config.hidden * keys / sequence)
    elements = config.embedding_width * (1 + drops_hidden) // parts
    elements += inputs // parts + max(layers, default=0) if recompute else sum(layers)
    scores = num_predictions * config.padded_vocab_size // tensor_parallel
    return tokens * elements * element + 2 * scores * element


def buffer_bytes(
    config: BertConfig,
    zero_stage: int,
    precision: str,
    tensor_parallel: int,
    data_parallel: int,
    accumulation: int = 1,
    bucket_elements: int = DEFAULT_BUCKET,
    overlaps: bool = False,
) -> int:
    """Memory in which gradients are produced and reduced, and from which the optimizer steps.

    overlaps: DeepSpeed's `overlap_comm`, which fills one bucket while the other is reduced.
    """
    trained = parameters_per_tensor_rank(config, tensor_parallel, trained_only=True)
    share = -(-trained // data_parallel)
    element = FP32_BYTES if precision == "fp32" else 2
    as_fp32 = FP32_BYTES if precision != "fp32" else 0  # a second copy of the gradients, for the masters
    made = element * config.padded_vocab_size * config.embedding_width // tensor_parallel  # one gradient per use
    if accumulation > 1:
        made += element * trained  # in addition to the sum so far
    bucket = element * min(bucket_elements, trained)
    exchanges = data_parallel > 1
    if zero_stage == 0:
        return made
    if zero_stage == 1 and not exchanges:
        return made + (element + as_fp32) * share  # flattened, then in fp32
    if zero_stage < 3:
        # This rank's part once reduced, then flattened, then in fp32. What is sent is copied first.
        reducing, stepping = bucket * (1 + exchanges + overlaps), (element + as_fp32) * share
        return made + element * share + max(reducing, stepping)
    # Weights as gathered and as used; they stay from the forward to the backward pass.
    gathered = 2 * element * parameters_per_tensor_rank(config, tensor_parallel)
    return made + gathered + bucket * (1 + 2 * exchanges) + (element * exchanges + as_fp32) * share


def fp32_gradient_bytes(config: BertConfig, zero_stage: int, precision: str, tensor_parallel: int) -> int:
    """Gradients of the fp32 masters of 16-bit weights at ZeRO 0, made one by one in memory that activations freed.

    The other stages make theirs in one piece, for which glibc's heap has no gap large enough.
    """
    if zero_stage > 0 or precision == "fp32":
        return 0
    return FP32_BYTES * parameters_per_tensor_rank(config, tensor_parallel, trained_only=True)
