"""What a change of shape and a checkpoint cost, and memory against what `plan` says."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from growth.operators import make_operator, shape_change
from model.config import BertConfig
from pretrain.checkpoint import CheckpointStore
from pretrain.cost.memory import StepBytes, activation_bytes, buffer_bytes, held_bytes, peak_bytes, state_bytes
from pretrain.engine.distributed import computes_on_gpu
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move
from pretrain.engine.zero import destroy
from pretrain.profile.against import MASK_RATE
from pretrain.profile.peak_memory import peak_bytes as measured_peak
from pretrain.profile.peak_memory import reset_peak, resident_bytes
from tests.gpu.steps import Cell, step_of, workload_of
from tests.gpu.timing import finish

CELL = Cell("full rows, not compiled", compiled=False, packed=False)


def rows(config: BertConfig, num_rows: int, sequence: int) -> Iterator[dict[str, Any]]:
    """Half of the layers, then all."""
    half = config.replace(layers=config.layers // 2)
    libraries = resident_bytes()
    engine = CELL.engine(half)
    yield memory("half of the layers", half, engine, num_rows, sequence, libraries)
    begin = time.perf_counter()
    engine, times = move(
        engine,
        CELL.settings(),
        lambda state: shape_change(half, [make_operator("stack", {})], {"layers": config.layers}),
    )
    finish()
    yield {"what": "a move to all layers", "seconds": time.perf_counter() - begin, **vars(times)}
    yield memory("all layers", config, engine, num_rows, sequence, libraries)
    with TemporaryDirectory() as folder:
        begin = time.perf_counter()
        store = CheckpointStore(Path(folder))
        store.save(1, read_state(engine), {})
        paused = time.perf_counter() - begin
        store.flush()
        yield {"what": "a checkpoint", "seconds": time.perf_counter() - begin, "training pauses": paused}
    destroy(engine)


def memory(what: str, config: BertConfig, engine: Any, num_rows: int, sequence: int, libraries: int) -> dict[str, Any]:
    """GiB of two steps, and as predicted. `libraries`: bytes that the process held before, on a CPU."""
    reset_peak()
    step = step_of(engine, workload_of(CELL, config, num_rows, sequence))
    step()
    step()
    finish()
    tokens, on_cpu = num_rows * sequence, not computes_on_gpu()
    predictions = round(MASK_RATE * tokens)
    activations = activation_bytes(config, tokens, sequence, predictions, "bf16", keeps_maps=on_cpu)
    added = StepBytes(activations, buffer_bytes(config, 1, "bf16", 1, 1))
    predicted = peak_bytes(state_bytes(config, 1, "bf16", 1, 1), added, on_cpu)
    found = {"what": f"memory, {what}", "peak": measured_peak() - libraries, "predicted": predicted}
    if not on_cpu:
        free, total = torch.cuda.mem_get_info()
        reserved = torch.cuda.max_memory_reserved()
        found |= {"reserved": reserved, "of the GPU": total - free, "of the GPU, predicted": held_bytes(predicted, 1)}
    return {name: value / 2**30 if isinstance(value, int) else value for name, value in found.items()}
