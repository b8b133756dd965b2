"""Every message that a rank sends in a step, as DeepSpeed 0.19.8, the model and the optimizer send them.

    ZeRO 0      gradients summed once a step, in pieces of 500 million elements, after the backward pass
    ZeRO 1      gradients summed once a step, bucket by bucket; weights gathered, a message for each parameter group
    ZeRO 2      the same, the gradients after every micro-batch
                both, where each rank clips its own (pretrain/engine/clipping.py): once, after the last backward pass
    ZeRO 3      weights gathered for every micro-batch, a prefetch bucket at a time; gradients scattered, by buckets
    Muon        parts of matrices to their homes and back, in rounds (pretrain/optim/muon/homes.py)
    TP          hidden states summed four times a layer; the embeddings; scores over the vocabulary

`tests/pretrain/cost/time/test_messages.py` compares this with what two ranks send.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal, NamedTuple

from model.config import BertConfig
from model.parameters import ParameterSpec, parameter_table
from pretrain.cost.memory import FP32_BYTES, matrix_bytes, numel_on_rank
from pretrain.cost.time.machine import KINDS, Kind
from pretrain.engine.config_file import DEFAULT_BUCKET, overlaps_messages
from pretrain.optim.buckets import gradient_buckets
from pretrain.recipe import ResolvedStage

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL = KINDS
PREFETCH, LIVE = 50_000_000, 1_000_000_000
"""DeepSpeed's defaults for `stage3_prefetch_bucket_size`, and for what may stay gathered between two uses."""
PERSISTENT = 100_000
"""Elements up to which ZeRO 3 keeps a parameter whole, where it does not gather whole blocks."""

LAYERWISE = {"lamb": 2, "lans": 3, "stableadamw": 1}
"""Norms of each parameter that these optimizers sum over ranks."""
TRAINER_BYTES = 32
"""The sums of losses and of correct predictions that are logged. (Those of cosines to a teacher are not counted.)"""
LOSS_TABLE_BYTES = 16
"""For each word, where tokens are dropped: its loss in a step, and how often it was predicted."""

When = Literal["forward", "backward", "reduction", "gathering", "rounds", "update"]
"""`reduction` of gradients may overlap with the backward pass, `gathering` of weights for ZeRO 3 with the forward pass,
`rounds` with the products of the optimizer. The others are waited for."""


Over = Literal["data", "tensor", "all"]
"""The ranks that take part."""


class Message(NamedTuple):
    kind: Kind
    over: Over
    num_bytes: int
    """Of the whole tensor that is summed, put together or divided. Of an all-to-all: what a rank sends, or receives if
    that is more."""
    when: When
    times: float = 1
    """In a step."""


def messages(stage: ResolvedStage, on_cpu: bool) -> Iterator[Message]:
    """All messages of a step."""
    if stage.data_parallel > 1:
        yield from _of_gradients_and_weights(stage, overlaps_messages(stage.deepspeed, not on_cpu, stage.data_parallel))
    if stage.tensor_parallel > 1:
        yield from _of_hidden_states(stage)
        if stage.clips_on_ranks:
            num_buckets = len(gradient_buckets(stage.config, stage.optimizer.clip_bucket_mb))
            yield Message(ALL_REDUCE, "tensor", 2 * FP32_BYTES * num_buckets, "update")
    yield from _of_norms(stage)
    yield from _of_layerwise_norms(stage)
    for numel in stage.optimizer_work.exchanged:
        yield Message(ALL_TO_ALL, "all", matrix_bytes(on_cpu) * numel, "rounds")
    yield from of_teacher(stage)
    if stage.data_parallel > 1:
        yield Message(ALL_REDUCE, "data", TRAINER_BYTES, "update")
    if stage.config.token_dropping and stage.data_parallel * stage.tensor_parallel > 1:
        yield Message(ALL_REDUCE, "all", LOSS_TABLE_BYTES * stage.config.vocab_size, "update")


def _of_gradients_and_weights(stage: ResolvedStage, overlaps: bool) -> Iterator[Message]:
    """Among data-parallel ranks."""
    element, zero = _element(stage), stage.deepspeed["zero_optimization"]
    sizes = [numel_on_rank(spec, stage.tensor_parallel) for spec in _as_reduced(stage, overlaps)]
    bucket = min(zero.get("reduce_bucket_size", DEFAULT_BUCKET), sum(sizes))
    if stage.zero_stage == 0:
        for numel in _pieces(sizes, DEFAULT_BUCKET):
            yield Message(ALL_REDUCE, "data", element * numel, "update")
        return
    rounds = 1 if stage.zero_stage == 1 or stage.clips_on_ranks else stage.accumulation
    when: When = "update" if stage.clips_on_ranks else "reduction"
    kind = ALL_REDUCE if stage.zero_stage < 3 else REDUCE_SCATTER
    for numel in _buckets(sizes, bucket):
        yield Message(kind, "data", element * numel, when, rounds)
    if stage.zero_stage < 3:
        for numel in _groups(stage, align=2 * stage.data_parallel):
            yield Message(ALL_GATHER, "data", element * numel, "update")
        return
    yield from _of_gathered_weights(stage)


def _of_gathered_weights(stage: ResolvedStage) -> Iterator[Message]:
    """ZeRO 3: the first module's weights alone, and behind each module what comes next. They stay until the backward
    pass, as long as there are not too many."""
    element, zero = _element(stage), stage.deepspeed["zero_optimization"]
    kept_whole = zero.get("stage3_param_persistence_threshold", 0 if gathers_whole_blocks(stage) else PERSISTENT)
    sizes = [numel_on_rank(spec, stage.tensor_parallel) for spec in parameter_table(stage.config).values()]
    gathered = [size for size in sizes if size > kept_whole]
    padded = [-(-size // stage.data_parallel) * stage.data_parallel for size in gathered]
    live = min(zero.get("stage3_max_live_parameters", LIVE), zero.get("stage3_max_reuse_distance", LIVE))
    passes = stage.accumulation * (1 if sum(sizes) <= live else 2)
    ahead = _pieces(padded[1:], zero.get("stage3_prefetch_bucket_size", PREFETCH) - 1)
    for numel in [*padded[:1], *ahead]:
        yield Message(ALL_GATHER, "data", element * numel, "gathering", passes)
    for size in sizes:
        if size <= kept_whole:
            yield Message(ALL_GATHER, "data", element * size, "update")


def _of_hidden_states(stage: ResolvedStage) -> Iterator[Message]:
    """Among tensor-parallel ranks, after each branch forward and before each backward. Sequence parallelism scatters
    and gathers instead of summing, and gathers once more for the backward pass."""
    config, element = stage.config, _element(stage)
    tokens = stage.micro_batch * stage.sequence
    predictions = round(tokens * stage.predicted_share)
    width = element * config.embedding_width
    forward: dict[float, float] = defaultdict(float)  # branches, by the tokens of a row that they compute
    backward: dict[float, float] = defaultdict(float)
    for layer in range(config.layers):
        queries, keys = config.num_tokens(layer, stage.sequence, stage.sequence * stage.predicted_share)
        forward[queries] += 2 * config.run_share(layer)
        backward[queries] += 2 * config.run_share(layer)
        if keys != queries:
            backward[keys] += 1
    of_a_token = element * stage.micro_batch * config.hidden
    halves = (REDUCE_SCATTER, ALL_GATHER) if stage.sequence_parallel else (ALL_REDUCE,)
    for kind in halves:
        again = 1 + (kind == ALL_GATHER)
        yield Message(kind, "tensor", tokens * width, "forward", stage.accumulation)
        for length, branches in forward.items():
            times = stage.accumulation * branches * (1 + stage.recompute)
            yield Message(kind, "tensor", round(of_a_token * length), "forward", times)
        for length, branches in backward.items():
            yield Message(kind, "tensor", round(of_a_token * length), "backward", stage.accumulation * branches * again)
    yield Message(ALL_REDUCE, "tensor", FP32_BYTES * predictions, "forward", stage.accumulation)
    yield Message(ALL_REDUCE, "tensor", 2 * FP32_BYTES * predictions, "forward", stage.accumulation)
    yield Message(ALL_REDUCE, "tensor", predictions * width, "backward", stage.accumulation)


def of_teacher(stage: ResolvedStage) -> Iterator[Message]:
    """Forward pass of the frozen teacher in the steps that compute it: among tensor-parallel ranks as above, and the
    weights that data-parallel ranks divide under ZeRO 3 (pretrain/engine/frozen.py), module by module."""
    if stage.align is None or stage.align.config is None or not stage.aligned_share:
        return
    config, element, times = stage.align.config, _element(stage), stage.accumulation * stage.aligned_share
    tokens = stage.micro_batch * stage.sequence
    if stage.tensor_parallel > 1:
        of_layers = element * tokens * config.hidden
        for kind in (REDUCE_SCATTER, ALL_GATHER) if stage.sequence_parallel else (ALL_REDUCE,):
            inside = times * 2 * config.layers
            outside = element * tokens * (config.hidden if kind == ALL_GATHER else config.embedding_width)
            yield Message(kind, "tensor", of_layers, "forward", inside)
            yield Message(kind, "tensor", outside, "forward", times)
    if stage.sequence_parallel:  # of the aligned layer
        yield Message(ALL_GATHER, "tensor", element * tokens * stage.config.hidden, "forward", times)
    if stage.zero_stage == 3 and stage.data_parallel > 1:
        modules: dict[int | None, int] = {}
        for spec in parameter_table(config).values():
            if spec.block is not None or spec.module.startswith("embeddings."):
                modules[spec.block] = modules.get(spec.block, 0) + numel_on_rank(spec, stage.tensor_parallel)
        for numel in modules.values():
            padded = -(-numel // stage.data_parallel) * stage.data_parallel
            yield Message(ALL_GATHER, "data", element * padded, "forward", times)


def _of_norms(stage: ResolvedStage) -> Iterator[Message]:
    """Of the gradient: one number for each parameter group. At ZeRO 0 in 16 bits data-parallel ranks sum none, and
    tensor-parallel ones also look for overflows."""
    split, summed = stage.tensor_parallel > 1, stage.data_parallel > 1
    size = 2 * FP32_BYTES if stage.zero_stage == 3 else FP32_BYTES
    found: list[tuple[Over, int, int]]
    if stage.zero_stage:
        groups = len(_groups(stage))
        found = [("data", size, groups * summed), ("tensor", size, groups * split)]
    elif stage.precision == "fp32":
        found = [("data", size, 1 * summed), ("tensor", size, 1 * split)]
    else:
        found = [("tensor", 1, 1 * split), ("tensor", size, 2 * split)]
    for over, num_bytes, times in found:
        if times:
            yield Message(ALL_REDUCE, over, num_bytes, "update", times)


def _of_layerwise_norms(stage: ResolvedStage) -> Iterator[Message]:
    """LAMB, LANS, StableAdamW: of every parameter, in float64, among the ranks that share one copy of the optimizer's
    state."""
    optimizer = stage.optimizer.chosen.name
    shares = stage.tensor_parallel * (stage.data_parallel if stage.zero_stage else 1)
    if optimizer in LAYERWISE and shares > 1:
        num_bytes = 2 * FP32_BYTES * LAYERWISE[optimizer] * len(parameter_table(stage.config))
        yield Message(ALL_REDUCE, "all" if stage.zero_stage else "tensor", num_bytes, "update")


def gathers_whole_blocks(stage: ResolvedStage) -> bool:
    """Whether ZeRO 3 treats a block as one module (`gather_whole_blocks` in pretrain/engine/build.py)."""
    config = stage.config
    return (
        0 < config.num_blocks == config.layers
        and not stage.recompute
        and all(spec.trainable for spec in parameter_table(config).values())
        and all(config.run_share(layer) == 1 for layer in range(config.layers))
        and not any(_looks_at_others(config, layer) for layer in range(config.layers))
    )


def _looks_at_others(config: BertConfig, layer: int) -> bool:
    """Whether a layer computes fewer tokens than it looks at: it then calls the parts of its block one by one."""
    queries, keys = config.num_tokens(layer, config.max_positions, 0)
    return queries < keys


def _groups(stage: ResolvedStage, align: int = 1) -> list[int]:
    """Elements of the parameter groups, where all parameters have taken equally many steps."""
    sums: dict[tuple, int] = {}
    for spec in _trained(stage):
        group = stage.optimizer.chosen.group_rules.group_of(stage.config, spec)
        sums[group] = sums.get(group, 0) + numel_on_rank(spec, stage.tensor_parallel)
    return [-(-numel // align) * align for numel in sums.values()]


def _by_group(stage: ResolvedStage, specs: list[ParameterSpec]) -> list[ParameterSpec]:
    rules = stage.optimizer.chosen.group_rules
    groups = list(dict.fromkeys(rules.group_of(stage.config, spec) for spec in _trained(stage)))
    return sorted(specs, key=lambda spec: groups.index(rules.group_of(stage.config, spec)))


def _buckets(sizes: Iterable[int], limit: int) -> list[int]:
    """Filled in order; one that the next tensor would overfill is sent before it."""
    found = [0]
    for size in sizes:
        if found[-1] and found[-1] + size > limit:
            found.append(0)
        found[-1] += size
    return [numel for numel in found if numel]


def _pieces(sizes: Iterable[int], limit: int) -> list[int]:
    """Filled in order; one is sent as soon as it is overfull."""
    found = [0]
    for size in sizes:
        found[-1] += size
        if found[-1] > limit:
            found.append(0)
    return [numel for numel in found if numel]


def _as_reduced(stage: ResolvedStage, overlaps: bool) -> list[ParameterSpec]:
    """Trained parameters in the order of their gradients' reduction: from the top down as they are computed. Within
    whole blocks, and everywhere if nothing overlaps, parameter group by parameter group."""
    specs = _trained(stage)
    if stage.zero_stage == 0:
        return specs
    if stage.clips_on_ranks or (stage.zero_stage == 1 and not overlaps):
        return _by_group(stage, specs)
    if stage.zero_stage < 3 or not gathers_whole_blocks(stage):
        return specs[::-1]
    ordered: list[ParameterSpec] = []
    for block, group in groupby(specs[::-1], key=lambda spec: spec.block):
        backwards = list(group)
        forwards = backwards[::-1]
        ordered += backwards if block is None else _by_group(stage, forwards)
    return ordered


def _trained(stage: ResolvedStage) -> list[ParameterSpec]:
    return [spec for spec in parameter_table(stage.config).values() if spec.trainable]


def _element(stage: ResolvedStage) -> int:
    return FP32_BYTES if stage.precision == "fp32" else 2
