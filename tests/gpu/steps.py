"""A whole training step with everything on, and then with one improvement at a time switched off."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from growth.state import fresh_state
from model import attention_kernels
from model.config import BertConfig
from model.loss import IN_CHUNKS
from model.parallel.layout import ParallelLayout
from pretrain.engine import build, compilation
from pretrain.engine.build import EngineSettings
from pretrain.engine.compilation import compiles
from pretrain.engine.distributed import computes_on_gpu, device
from pretrain.engine.move import start_engine
from pretrain.engine.zero import basic_optimizer, destroy
from pretrain.optim.adamw import adamw
from pretrain.profile.against import LR, Workload, packed_batches, useful_flops
from pretrain.profile.breakdown import PHASES, break_down
from pretrain.profile.peak import matmul_flops_per_second
from pretrain.profile.peak_memory import peak_bytes, reset_peak
from tests.gpu.timing import finish, seconds_of

Step = Callable[[], None]


@dataclass(frozen=True)
class Cell:
    """A step, and what is switched off in it."""

    name: str
    compiled: bool = True
    has_kernel: bool = True
    packed: bool = True
    fast_norm: bool = True
    fused_loss: bool = True
    deepspeed: dict[str, Any] = field(default_factory=dict)
    stage: int = 1
    recompute: bool = False
    fp8: bool = False

    def engine(self, config: BertConfig) -> Any:
        return start_engine(fresh_state(config, seed=0), self.settings())

    def settings(self) -> EngineSettings:
        return EngineSettings(
            layout=ParallelLayout(1, 1),
            micro_batch=1,  # only DeepSpeed's own book-keeping reads it
            accumulation=1,
            precision="bf16",
            make_optimizer=adamw((0.9, 0.98), 1e-6),
            compile=self.compiled and compiles("auto", device()),
            recompute=self.recompute,
            fp8=self.fp8,
            deepspeed={"zero_optimization": {"stage": self.stage}, **self.deepspeed},
        )

    def switched(self) -> ExitStack:
        stack = ExitStack()
        if not self.has_kernel:
            stack.enter_context(patch.object(attention_kernels, "kernel_for_runs", lambda *_: None))
        if not self.fast_norm:
            stack.enter_context(patch.object(build, "speed_up_norm", lambda engine: None))
        if not self.fused_loss:
            stack.enter_context(patch.object(compilation, "compiled_loss", lambda: IN_CHUNKS))
        return stack


CELLS = (
    Cell("everything on"),
    Cell("full rows", packed=False),
    Cell("in FP8", fp8=True),
    Cell("not compiled", compiled=False),
    Cell("attention with a mask", has_kernel=False),
    Cell("loss in chunks", fused_loss=False),
    Cell("DeepSpeed's norm", fast_norm=False),
    Cell("DeepSpeed's timer", deepspeed={"timers": {"throughput": {"enabled": True}}}),
    Cell("ZeRO 3", stage=3),
    Cell("ZeRO 0", stage=0),
    Cell("recomputed", recompute=True),
)


def rows(
    config: BertConfig, num_rows: int, sequence: int, budget: float, cells: tuple[Cell, ...] = CELLS
) -> Iterator[dict[str, Any]]:
    """One row for each cell; `budget` seconds for each, which compiling counts against."""
    limit = matmul_flops_per_second(device(), torch.bfloat16, seconds=min(1.0, budget / 10))
    yield {"step": "the matmul limit", "TFLOP/s": limit / 1e12}
    for cell in cells:
        begin = time.perf_counter()
        try:
            row = measure(cell, config, num_rows, sequence, budget)
        except Exception as error:  # such as one that runs out of memory
            row = {"error": f"{type(error).__name__}: {error}"[:300]}
        if "TFLOP/s" in row:
            row["of the limit"] = row["TFLOP/s"] * 1e12 / limit
        yield {"step": cell.name, **row, "seconds in all": time.perf_counter() - begin}


def measure(cell: Cell, config: BertConfig, num_rows: int, sequence: int, budget: float) -> dict[str, Any]:
    workload = workload_of(cell, config, num_rows, sequence)
    begin = time.perf_counter()
    with cell.switched():
        engine = cell.engine(config)
        step = step_of(engine, workload)
        reset_peak()
        step()
        finish()
        first = time.perf_counter() - begin
        seconds = seconds_of(step, max(budget - first, budget / 10))
        peak = peak_bytes()
        destroy(engine)
    tokens = sum(workload.lengths)
    return {
        "ms": seconds * 1e3,
        "tokens/s": tokens / seconds,
        "sequences/s": len(workload.lengths) / seconds,
        "TFLOP/s": useful_flops(workload) / seconds / 1e12,
        "peak GiB": peak / 2**30,
        "s to the first step": first,
    }


def workload_of(cell: Cell, config: BertConfig, num_rows: int, sequence: int) -> Workload:
    """About `num_rows` rows: packed ones of sequences that fill 60% of a row on average, or full ones."""
    if cell.packed:
        return Workload.varied(config, sequence, round(num_rows / 0.6))
    return Workload.full(config, sequence, num_rows)


def step_of(engine: Any, workload: Workload) -> Step:
    (batch,) = packed_batches(workload, 1)
    num_masked, num_pairs = len(batch.masked_ids), len(workload.lengths)

    def step() -> None:
        for group in basic_optimizer(engine).param_groups:
            group["lr"] = LR
        with record_function("forward"):
            output = engine(batch, 1 / num_masked, 1 / num_pairs)
        with record_function("backward"):
            engine.backward(output.loss)
        with record_function("optimizer"):
            engine.step()

    return step


def trace(config: BertConfig, num_rows: int, sequence: int, folder: Path) -> Iterator[dict[str, Any]]:
    """A trace for Perfetto of some steps, and where they go."""
    cell, num_steps = CELLS[0], 3
    engine = cell.engine(config)
    step = step_of(engine, workload_of(cell, config, num_rows, sequence))
    for _ in range(3):
        step()
    finish()
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * computes_on_gpu()) as recorder:
        for _ in range(num_steps):
            step()
        finish()
    recorder.export_chrome_trace(str(folder / "step.trace.json.gz"))
    found = break_down(recorder.events(), num_steps, ())
    for phase in PHASES[1:4]:
        yield {"part": phase, "ms": found.phases[phase]}
    for kernel, milliseconds in found.kernels.items():
        yield {"part": kernel[:80], "ms": milliseconds}
    destroy(engine)
