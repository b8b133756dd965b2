"""Kills a run again and again, at random moments, and proves each time that nothing is lost.

    python -m tests.whole.faults.campaign --kills 200 --seed 1

Two ranks train the tiny run under torchrun's own agent. SIGKILL takes one rank or everything at a random moment of a
step, of a start, inside a move between two shapes or inside the writing of a checkpoint. The run is started again until
it ends; then its weights, moments, steps and metrics must be those of a run that nobody disturbed, bit for bit.

The processes are forked from one that has imported everything, so that a start takes a second and not ten.
"""

import argparse
import gc
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import torch
import torch.utils.tensorboard  # before the fork: every start would import it again
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pretrain.engine.distributed import process_group
from pretrain.recipe import Recipe
from pretrain.training.train import train
from tests.support import tiny
from tests.support.launching import children, kill
from tests.support.tiny import metrics, same_bits, tiny_corpus, tiny_recipe

NUM_RANKS = 2
MUON = {"name": "muon", "lr": 1e-2, "betas": [0.9, 0.98], "fallback": {"lr_factor": 0.3}}
STAGES = [*tiny.STAGES[:2], {**tiny.STAGES[2], "optimizer": MUON}]
"""With the last change of shape, the optimizer changes."""
MOMENTS = {
    "inside a move, before the new engine": "pretrain.engine.move.build_engine",
    "inside a move, before the state is written into it": "pretrain.engine.move.write_state",
    "inside a checkpoint, before a rank's part": "pretrain.checkpoint.store.write_part",
    "inside a checkpoint, within a part": "pretrain.checkpoint.tensors.os.fsync",
    "inside a checkpoint, before its index": "pretrain.checkpoint.store.write_index",
    "inside a checkpoint, before its name": "pretrain.checkpoint.store._complete",
    "inside a checkpoint, between its name and `latest`": "pretrain.checkpoint.store.replace_text",
    "inside a checkpoint, before old ones are dropped": "pretrain.checkpoint.store._drop_old",
}
"""A rank dies as it calls this function."""
RANDOM = ("one rank", "all")
"""Killed from outside, after a random number of steps and a random part of one."""


class Attempt:
    """One start of the run."""

    def __init__(self, recipe: Recipe, folder: Path, moment: str = "", rank: int = 0, call: int = 1):
        self.folder = folder
        self.process = get_context("fork").Process(target=_agent, args=(recipe, folder, moment, rank, call))
        self.process.start()

    def wait(self) -> bool:
        """Whether the run came to its end."""
        self.process.join(1200)
        assert self.process.exitcode is not None, f"the run hangs:\n{Path(f'{self.folder}.log').read_text()[-4000:]}"
        return self.process.exitcode == 0

    def kill_after(self, num_lines: int, delay: float, kind: str, draw: random.Random) -> bool:
        """Kills once the run has written `num_lines` more metrics. Whether there was something left to kill."""
        file = self.folder / "metrics.jsonl"
        wanted = _num_lines(file) + num_lines
        while self.process.is_alive() and _num_lines(file) < wanted:
            time.sleep(0.002)
        time.sleep(delay)
        kill(self.process.pid, signal.SIGSTOP)  # so that it starts no rank that nobody would know of
        ranks = children(self.process.pid)
        targets = [self.process.pid, *ranks] if kind == "all" else draw.sample(ranks, 1) if ranks else []
        alive = self.process.is_alive()
        for pid in targets:
            kill(pid, signal.SIGKILL)
        kill(self.process.pid, signal.SIGCONT)
        return alive and bool(targets)


def campaign(num_kills: int, seed: int, scratch: Path, say: Callable[[str], None] = print) -> Counter[str]:
    """Kills until there were `num_kills`; how many of each kind. AssertionError when a run ends otherwise."""
    draw = random.Random(seed)
    recipe = tiny_recipe(tiny_corpus(scratch).directory, stages=STAGES)
    reference = scratch / "reference"
    assert Attempt(recipe, reference).wait()
    expected = metrics(reference)
    kills: Counter[str] = Counter()
    num_runs = 0
    kinds = [*MOMENTS, *RANDOM * 6]
    while kills.total() < num_kills:
        folder, finished = scratch / f"run-{num_runs}", False
        while not finished:
            kind = draw.choice(kinds) if kills.total() < num_kills else "none"
            rank, call = draw.randrange(NUM_RANKS), draw.randint(1, 3)
            num_lines, delay = draw.randint(0, 25), draw.uniform(0, 0.1)
            attempt = Attempt(recipe, folder, MOMENTS.get(kind, ""), rank, call)
            killed = kind in RANDOM and attempt.kill_after(num_lines, delay, kind, draw)
            # A kill between the summary and the process's end hits a finished run.
            finished = attempt.wait() or (folder / "summary.json").is_file()
            killed = killed or (kind in MOMENTS and not finished)
            assert finished or killed, f"the run failed of itself:\n{Path(f'{folder}.log').read_text()[-4000:]}"
            kills[kind] += killed
        assert metrics(folder) == expected, f"{folder}: other metrics than the undisturbed run"
        assert same_bits(folder, reference), f"{folder}: other weights or moments than the undisturbed run"
        num_runs += 1
        say(f"{kills.total()} kills, {num_runs} runs equal to the undisturbed one, bit for bit")
    return +kills


def _agent(recipe: Recipe, folder: Path, moment: str, rank: int, call: int) -> None:
    """torchrun, within this process."""
    output = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=NUM_RANKS,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
        max_restarts=0,
        monitor_interval=0.05,
    )
    elastic_launch(config, _rank)(recipe, folder, moment, rank, call)


def _rank(recipe: Recipe, folder: Path, moment: str, rank: int, call: int) -> None:
    torch.set_num_threads(1)
    if moment and int(os.environ["RANK"]) == rank:
        patch(moment, _deadly(moment, call)).start()
    with process_group():
        train(recipe, folder)


def _deadly(moment: str, call: int) -> Callable:
    """The function `moment`, but its `call`-th call ends the process as SIGKILL does."""
    module, _, name = moment.rpartition(".")
    owner = os if module.endswith(".os") else sys.modules[module]
    original, num_calls = getattr(owner, name), 0

    def function(*arguments, **options):
        nonlocal num_calls
        num_calls += 1
        if num_calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    return function


def _num_lines(file: Path) -> int:
    try:
        return file.read_bytes().count(b"\n")
    except OSError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    gc.freeze()  # or each process would look for garbage in what this one has imported
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        kills = campaign(options.kills, options.seed, Path(scratch), lambda line: print(line, flush=True))
    for kind, number in sorted(kills.items(), key=lambda pair: -pair[1]):
        print(f"{number:5} {kind}")
    print(f"{kills.total()} kills, seed {options.seed}, {time.monotonic() - start:.0f} s: nothing was lost")


if __name__ == "__main__":
    main()
