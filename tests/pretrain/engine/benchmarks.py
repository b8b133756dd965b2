"""The cost of a move, compared with the disk route that it replaces and with one training step of 4,096 tokens.

    torchrun --standalone --nproc-per-node 2 -m tests.pretrain.engine.benchmarks [REPETITIONS]

BERT-base with half its FFN grows to the 110M-parameter BERT-base (`tile_ffn`) at ZeRO stage 1, fp32, in memory and by
way of the disk: save, convert with the verb `grow`, start processes again, load. The three are taken in turn, so that
what else the machine does falls on all alike; printed are medians and the range.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine

from growth.operators import make_operator, shape_change
from growth.state import fresh_state
from model.batch import Batch
from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from model.parameters import parameter_table
from pretrain.checkpoint import load_checkpoint
from pretrain.engine.build import EngineSettings
from pretrain.engine.distributed import process_group
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move, start_engine
from pretrain.engine.zero import destroy
from pretrain.launch.local import torchrun_command
from pretrain.optim.adamw import adamw
from pretrain.use.grow import save_state

LARGE = BertConfig.preset("base", hidden_dropout=0, attention_dropout=0)
SMALL = LARGE.replace(ffn=LARGE.ffn // 2)
NUM_TOKENS, LENGTH = 4096, 128


def settings() -> EngineSettings:
    layout = ParallelLayout(1, dist.get_world_size())
    rows = NUM_TOKENS // LENGTH // layout.data_parallel
    return EngineSettings(
        layout=layout,
        micro_batch=rows,
        accumulation=1,
        precision="fp32",
        make_optimizer=adamw((0.9, 0.999), 1e-6),
        deepspeed={"zero_optimization": {"stage": 1}},
    )


def step(engine: DeepSpeedEngine) -> None:
    rows = NUM_TOKENS // LENGTH // dist.get_world_size()
    ids = torch.randint(1000, LARGE.vocab_size, (rows, LENGTH))
    masked = torch.randperm(rows * LENGTH)[: rows * LENGTH * 15 // 100].sort().values
    engine.backward(engine(Batch(ids, masked, ids.flatten()[masked]), 1 / len(masked)).loss)
    engine.step()


def timed(seconds: dict[str, list[float]], name: str, action) -> object:
    dist.barrier()
    start = time.perf_counter()
    result = action()
    dist.barrier()
    seconds[name].append(time.perf_counter() - start)
    return result


def repetition(seconds: dict[str, list[float]], folder: Path) -> None:
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    engines = [start_engine(fresh_state(SMALL, 0, rank, num_ranks), settings())]
    step(engines[0])
    convert = ["-m", "pretrain", "grow", folder / "old", "--to", f"ffn={LARGE.ffn}", "--operator", "tile_ffn"]
    _, *load = torchrun_command([__spec__.name, "load"], num_ranks, ["--standalone"])
    timed(seconds, "disk: save", lambda: save_state(read_state(engines[0]), {}, folder / "old"))
    timed(seconds, "disk: convert", lambda: alone(rank, *convert, "--out", folder / "new"))
    timed(seconds, "disk: restart and load", lambda: alone(rank, *load, folder / "new"))
    tile = make_operator("tile_ffn", {})
    engine, times = timed(
        seconds,
        "move",
        lambda: move(engines.pop(), settings(), lambda state: shape_change(SMALL, [tile], {"ffn": LARGE.ffn})),
    )
    for part, lasted in vars(times).items():
        seconds[f"move: {part}"].append(lasted)
    step(engine)  # the first one allocates
    timed(seconds, "step of 4,096 tokens", lambda: step(engine))
    destroy(engine)


LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", "PET_")
"""Beginnings of what torchrun tells its processes."""


def alone(rank: int, *arguments: object) -> None:
    """A separate command, started by rank 0 while the others wait."""
    if rank == 0:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHED)}
        subprocess.run([sys.executable, *map(str, arguments)], check=True, env=inherited, stdout=subprocess.DEVNULL)


def print_results(seconds: dict[str, list[float]]) -> None:
    millions = sum(spec.numel for spec in parameter_table(LARGE).values()) / 1e6
    ranks, repetitions = dist.get_world_size(), len(seconds["move"])
    print(f"{millions:.0f}M parameters, {ranks} processes, ZeRO 1, fp32, {repetitions} repetitions")
    parts = [values for name, values in seconds.items() if name.startswith("disk:")]
    seconds["disk route"] = [sum(each) for each in zip(*parts, strict=True)]
    for name, values in seconds.items():
        print(f"{name:28s} {statistics.median(values):8.2f} s   ({min(values):.2f} .. {max(values):.2f})")
    for name in ("disk route", "step of 4,096 tokens"):
        ratios = [move / other for move, other in zip(seconds["move"], seconds[name], strict=True)]
        print(f"move / {name:21s} {statistics.median(ratios):8.3f}     ({min(ratios):.3f} .. {max(ratios):.3f})")


def main(arguments: list[str]) -> None:
    with process_group():
        if arguments[:1] == ["load"]:
            state, _ = load_checkpoint(Path(arguments[1]))
            destroy(start_engine(state, settings()))
            return
        seconds: dict[str, list[float]] = defaultdict(list)
        for _ in range(int(arguments[0]) if arguments else 3):
            box = [tempfile.mkdtemp(dir=os.environ.get("BENCHMARK_FOLDER")) if dist.get_rank() == 0 else ""]
            dist.broadcast_object_list(box)
            repetition(seconds, Path(box[0]))
            if dist.get_rank() == 0:
                shutil.rmtree(box[0])
        if dist.get_rank() == 0:
            print_results(seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
