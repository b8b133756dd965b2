"""The verb `demo`: prepares the built-in corpus, trains the recipe `demo` by the clock and shows what it learned."""

import os
import time
from pathlib import Path

from pretrain.cli.arguments import Overrides
from pretrain.cli.train import train
from pretrain.launch.gpus import count_gpus
from pretrain.launch.local import run_module, run_verb
from pretrain.settings.options import OptionalInt
from pretrain.settings.values import SECONDS_PER_HOUR

CORPUS = ("prepare", "sotu", "--output", "corpora/sotu", "--vocab-size", "2048")
SPLIT = ("--document-tokens", "800", "--valid-share", "0.03")

BY_THE_CLOCK = (
    *("stages.tied.steps=null", "stages.untied.steps=null", "stages.deep.steps=null"),
    *("stages.tied.hours=6%", "stages.untied.hours=69%", "stages.deep.hours=25%"),
    *("schedule.warmup=5%", "optimizer.lr=1e-3", "batch.global=32", "data.mask_rate=0.3", "validation.every=400"),
)
"""The recipe's stages as shares of a time: more of it goes to the cheap ones, since slow machines take few steps.

Twice BERT's masks teach more a step, and small batches more a token: after 1.6 million tokens the loss was 1.1 nats
below the unigram's with 32 rows a step, 1.0 with 48. At a rate of 2.5e-3, instead of 1.5e-3, it was 0.5 after 500 steps
of 48 rows instead of 0.9; after 700 steps of 32 rows the loss was 5.83 at 1.5e-3, 5.78 at 1e-3. A vocabulary of 2,048
reached 1.44 after 4.3 million tokens, one of 1,024 1.35. With heads that begin by looking at
their neighbours the loss was 5.82 after 450 steps, without 6.05. Those masked whole words; after 3.1 million tokens
such masks left the loss 1.45 below the unigram's, masks of single tokens 2.02. Stacking to four layers cost 0.2 at
once, identity layers nothing (one seed each).
"""

TOTAL_SECONDS, RESERVE_SECONDS = 300, 50
"""From the first line to the last on two cores or more, and of that for starting, validating, growing and guessing."""
ON_ONE_CORE = 480, 75
TIMES_PREPARING = 3.8
"""The reserve is at least this many times what preparing took; on a quiet machine it needs three. A corpus that is
there already tells nothing."""
LEAST_SECONDS = 60
GPU_SECONDS = 60
"""Of training, which is enough."""


def demo(overrides: Overrides = (), nproc: OptionalInt = None) -> int:
    """Pretrain a small BERT and change its shape on the way: five minutes on two cores, eight on one.

    Prepares the built-in corpus, trains the recipe `demo` into a new folder under runs/, for as long as leaves time for
    the rest, and shows what it learned. Slow machines take fewer steps, not longer.

    Args:
        overrides: Override a value of the recipe, for example --set hours=0.1.
        nproc: Number of processes to start. Defaults to one per GPU or, without GPUs, 2 (1 where there is one core).
    """
    start, name = time.monotonic(), free_name(Path("runs"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if nproc is None and cores == 1 and not count_gpus():
        nproc = 1
    print(f"The demo takes about {_total_seconds(cores) / 60:.0f} minutes.", flush=True)
    if code := run_verb(*CORPUS, *SPLIT):
        return code
    seconds = training_seconds(time.monotonic() - start, cores)
    print(f"Training takes {seconds / 60:.1f} minutes, by the clock.", flush=True)
    by_the_clock = (f"hours={seconds / SECONDS_PER_HOUR:.5f}", *BY_THE_CLOCK, *overrides)
    return train("demo", by_the_clock, name=name, nproc=nproc) or run_module("pretrain.use.demo", f"runs/{name}")


def training_seconds(elapsed: float, cores: int) -> float:
    """How long to train once preparing has taken `elapsed` seconds."""
    if count_gpus():
        return GPU_SECONDS
    total, reserve = ON_ONE_CORE if cores == 1 else (TOTAL_SECONDS, RESERVE_SECONDS)
    return max(LEAST_SECONDS, total - elapsed - max(reserve, TIMES_PREPARING * elapsed))


def _total_seconds(cores: int) -> float:
    if count_gpus():
        return GPU_SECONDS + RESERVE_SECONDS
    return ON_ONE_CORE[0] if cores == 1 else TOTAL_SECONDS


def free_name(runs: Path) -> str:
    """demo, or demo-2, demo-3 ... when there is such a folder already."""
    name, number = "demo", 1
    while (runs / name).exists():
        number += 1
        name = f"demo-{number}"
    return name
