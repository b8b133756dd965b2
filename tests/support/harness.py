"""A small training run on synthetic ids, for tests of engines and moves on gloo ranks."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine

from growth.state import Record, TrainingState, fresh_state
from model.batch import Batch
from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from model.parameters import parameter_table
from pretrain.engine.build import EngineSettings
from pretrain.engine.distributed import device
from pretrain.engine.move import start_engine
from pretrain.engine.spread import fetch_from
from pretrain.engine.zero import basic_optimizer
from pretrain.optim.adamw import adamw
from pretrain.optim.groups import set_learning_rate
from tests.support.running import layout_of

GLOBAL_ROWS, LENGTH, MASKED_PER_ROW = 8, 16, 3

CONFIG = BertConfig(
    layers=2, hidden=32, heads=4, ffn=72, vocab_size=97, max_positions=LENGTH, hidden_dropout=0, attention_dropout=0
)


def settings(tp: int, stage: int, precision: str = "fp32", accumulation: int = 1, **zero: Any) -> EngineSettings:
    layout = layout_of(tp)
    return EngineSettings(
        layout=layout,
        micro_batch=GLOBAL_ROWS // layout.data_parallel // accumulation,
        accumulation=accumulation,
        precision=precision,
        make_optimizer=adamw((0.9, 0.98), 1e-6),
        deepspeed={"zero_optimization": {"stage": stage, **zero}},
    )


def start(config: BertConfig, engine_settings: EngineSettings, seed: int = 1) -> DeepSpeedEngine:
    return start_engine(fresh_state(config, seed, dist.get_rank(), dist.get_world_size()), engine_settings)


def global_batch(config: BertConfig, step: int) -> Batch:
    generator = torch.Generator().manual_seed(1000 + step)
    shape = (GLOBAL_ROWS, LENGTH)
    targets = torch.randint(config.vocab_size, shape, generator=generator)
    positions = torch.stack([torch.randperm(LENGTH, generator=generator)[:MASKED_PER_ROW] for _ in range(GLOBAL_ROWS)])
    ids = targets.scatter(1, positions, 4)
    flat = positions + LENGTH * torch.arange(GLOBAL_ROWS).unsqueeze(1)
    return Batch(
        ids,
        flat.flatten(),
        targets.gather(1, positions).flatten(),
        sentence_positions=LENGTH * torch.arange(GLOBAL_ROWS),
        sentence_labels=torch.randint(2, (GLOBAL_ROWS,), generator=generator),
    )


def rows(batch: Batch, first: int, count: int) -> Batch:
    """Rows first .. first + count of a batch in which every row has equally many masks."""
    masks = slice(first * MASKED_PER_ROW, (first + count) * MASKED_PER_ROW)
    return Batch(
        batch.ids[first : first + count],
        batch.masked_positions[masks] - first * LENGTH,
        batch.masked_ids[masks],
        sentence_positions=batch.sentence_positions[:count],
        sentence_labels=batch.sentence_labels[first : first + count],
    )


def train(
    engine: DeepSpeedEngine,
    first_step: int,
    num_steps: int,
    lr: float = 2e-3,
    before_step: Callable[[], None] = lambda: None,
) -> list[float]:
    """Losses of the global batch (mean over masked tokens plus mean over rows), the same float on every rank."""
    config, layout = engine.module.config, ParallelLayout.current()
    data_rank = layout.data_parallel_rank(dist.get_rank())
    accumulation = engine.gradient_accumulation_steps()
    micro = GLOBAL_ROWS // layout.data_parallel // accumulation
    scale = layout.data_parallel * accumulation
    losses = []
    for step in range(first_step, first_step + num_steps):
        set_learning_rate(basic_optimizer(engine), lr)
        total = torch.zeros((), dtype=torch.float64, device=device())
        batch = global_batch(config, step)
        for index in range(accumulation):
            part = rows(batch, (data_rank * accumulation + index) * micro, micro).to(device())
            output = engine(part, scale / (GLOBAL_ROWS * MASKED_PER_ROW), scale / GLOBAL_ROWS)
            engine.backward(output.loss)
            before_step()
            engine.step()
            total += output.loss.detach().double() / scale
        dist.all_reduce(total)
        losses.append(total.item() / layout.tensor_parallel)
    return losses


def whole_state(state: TrainingState) -> dict[str, Record]:
    """Every record, on every rank."""
    fetch = fetch_from(state)
    return {name: fetch(name) for name in parameter_table(state.config)}


def same(left: Mapping[str, Record], right: Mapping[str, Record]) -> bool:
    """Bitwise equality of two whole states."""
    return left.keys() == right.keys() and all(
        left[name].step == right[name].step
        and all(torch.equal(a, b) for a, b in zip(left[name].tensors(), right[name].tensors(), strict=True))
        for name in left
    )
