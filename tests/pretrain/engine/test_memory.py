"""What a move takes: at most the old shards, the new ones and two of the largest record; and nothing stays behind."""

import gc
import os
import re
import statistics
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from growth.learned_maps import LearnedMaps, Learning
from growth.operators import make_operator, shape_change
from growth.state import TENSORS, fresh_state
from model.config import BertConfig
from model.parameters import parameter_table
from pretrain.cost.learning import learning_bytes
from pretrain.cost.memory import peak_bytes
from pretrain.engine.host_memory import return_freed_memory
from pretrain.engine.learned_maps import LearningRows, learn_maps
from pretrain.engine.move import move
from pretrain.engine.spread import fetch_from
from pretrain.engine.zero import destroy
from pretrain.recipe import resolve
from tests.support.harness import LENGTH, settings, start, train
from tests.support.running import layout_of, random_batch
from tests.support.tiny import tiny_recipe
from tests.support.workers import pool

MIB = 1 << 20
# The word table is the largest record, and much larger than what an allocator or an interpreter may add.
WIDE = BertConfig(
    layers=4,
    hidden=256,
    heads=4,
    ffn=1024,
    vocab_size=20_000,
    max_positions=LENGTH,
    hidden_dropout=0,
    attention_dropout=0,
)
SMALL = WIDE.replace(vocab_size=2000, layers=2)
DEEP = WIDE.replace(vocab_size=5000, layers=24)


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory, now or (VmHWM) at most since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def shard_bytes(config: BertConfig, num_ranks: int) -> int:
    """Of an engine at ZeRO stage 1 in fp32: weights and gradients whole, masters and moments over the ranks."""
    num_parameters = sum(spec.numel for spec in parameter_table(config).values())
    return 4 * num_parameters * 2 + 4 * num_parameters * len(TENSORS) // num_ranks


def peak_of_a_move(source: BertConfig, operator: str, wanted: dict) -> tuple[int, int]:
    """The most bytes above what the process held before its old engine, and the limit."""
    chosen = settings(1, 1)
    destroy(start(SMALL, chosen))
    gc.collect()
    return_freed_memory()
    empty = resident()
    engines = [start(source, chosen)]
    train(engines[0], 0, 1)
    return_freed_memory()
    old = resident() - empty
    forget_peak()
    made = make_operator(operator, {})
    engine, _ = move(engines.pop(), chosen, lambda state: shape_change(source, [made], wanted))
    peak = resident("VmHWM") - empty
    new = shard_bytes(engine.module.config, dist.get_world_size())
    largest = max(
        4 * spec.numel * len(TENSORS)
        for config in (source, engine.module.config)
        for spec in parameter_table(config).values()
    )
    destroy(engine)
    return peak, old + new + 2 * largest


needs_peaks = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel does not reset peaks"
)


@needs_peaks
@pytest.mark.parametrize(
    ("source", "operator", "wanted"),
    [
        pytest.param(WIDE, "widen", {"ffn": 1280}, id="growing"),
        # What was read of the old engine is larger here than the new one and two records.
        pytest.param(DEEP, "coalesce", {"layers": 4, "ffn": 512}, id="shrinking"),
    ],
)
def test_peak_of_a_move(source, operator, wanted):
    for peak, limit in pool(2).run(peak_of_a_move, source, operator, wanted):
        assert peak < limit, f"{peak / MIB:.0f} MiB of {limit / MIB:.0f}"


def growth_over_three_moves(stage: int) -> tuple[float, int]:
    """Bytes that three moves leave behind, the median over all threes in a row of twelve; bytes of one engine.

    What a library takes once and keeps is in fewer than half of them, a leak is in all.
    """
    chosen = settings(1, stage)
    engine = start(SMALL, chosen)
    train(engine, 0, 1)
    held = [engine]
    del engine
    sizes = []
    for _ in range(12):
        engine, _ = move(held.pop(), chosen)
        held.append(engine)
        del engine
        gc.collect()
        return_freed_memory()  # or what malloc keeps would pass for a leak
        sizes.append(resident())
    destroy(held.pop())
    left = [later - earlier for earlier, later in zip(sizes, sizes[3:], strict=False)]
    return statistics.median(left), shard_bytes(SMALL, dist.get_world_size())


@pytest.mark.parametrize("stage", [1, 3])
def test_moves_leave_nothing(stage):
    """Fails when every move leaves a twentieth of an engine."""
    for left, engine_bytes in pool(2).run(growth_over_three_moves, stage):
        assert left < 3 * engine_bytes / 20, f"{left / MIB:.1f} MiB left, an engine takes {engine_bytes / MIB:.1f}"


def peak_of_learning(source: BertConfig, target: BertConfig, rows: int) -> int:
    """The most bytes above what the process held before it had a state, while it learns LiGO's maps from that."""
    tiny = source.replace(layers=1, hidden=64, heads=1, ffn=64)
    _learn(tiny, LearnedMaps.drawn(tiny, tiny.replace(layers=2), seed=3), rows)  # libraries take what they need
    maps = LearnedMaps.drawn(source, target, seed=3)
    gc.collect()
    return_freed_memory()
    empty = resident()
    forget_peak()
    _learn(source, maps, rows)
    return resident("VmHWM") - empty


def _learn(source: BertConfig, maps: LearnedMaps, rows: int) -> None:
    batch = random_batch(source, "packed", rows=rows, length=LENGTH)
    read, fetch = partial(LearningRows, [batch], 0.1, 0.1), fetch_from(fresh_state(source, 1, 0, 1))
    learn_maps(maps, Learning(2, 1e-3, 0.1), fetch, layout_of(1), torch.float32, read)


@needs_peaks
def test_learning_maps_takes_what_plan_says(corpus):
    """Weights and maps are nearly all of it. What the heap adds to them is not predicted."""
    sizes = {"heads": 4, "hidden": 256, "ffn": 1024, "layers": 4}, {"heads": 6, "hidden": 384, "ffn": 1536, "layers": 8}
    stages = [
        {"name": "small", "steps": 2, "shape": sizes[0]},
        {"name": "large", "steps": 2, "grow": {"ligo": {"steps": 2}}, "shape": sizes[1]},
    ]
    recipe = tiny_recipe(corpus, model=sizes[1] | {"max_positions": LENGTH}, stages=stages, sequence=LENGTH)
    run = resolve(recipe, SMALL.vocab_size, 1)
    small, large = run.stages
    ((held, step),) = learning_bytes(run, large, on_cpu=True)
    (peak,) = pool(1).run(peak_of_learning, small.config, large.config, large.micro_batch)
    assert peak == pytest.approx(peak_bytes(held, step, on_cpu=True) - step.process, rel=0.15)
