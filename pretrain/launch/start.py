"""Starts ranks: on every node of the SLURM job that this process runs in, or on this machine."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from model.errors import UserError
from pretrain.launch.gpus import count_gpus
from pretrain.launch.local import run_here
from pretrain.launch.slurm import Job, run_on_all_nodes

RANKS_WITHOUT_GPUS = 2


def is_rank() -> bool:
    """Whether torchrun, or whoever plays its part, has started this process."""
    return "RANK" in os.environ


def ranks_per_node(asked: int | None) -> int:
    """What was asked for; else one rank for each GPU, or 2 on a machine without."""
    if asked is not None:
        return positive("--nproc", asked)
    job = Job.from_environment()
    return (job and job.gpus_per_node) or count_gpus() or RANKS_WITHOUT_GPUS


def num_nodes() -> int:
    job = Job.from_environment()
    return job.num_nodes if job else 1


def start_ranks(module: Sequence[str], nproc: int) -> int:
    """Runs `python -m MODULE ARGUMENTS` in `nproc` ranks per node and waits. Returns the exit code they agreed on."""
    sys.stdout.flush()
    job = Job.from_environment()
    return run_on_all_nodes(job, module, nproc) if job else run_here(module, nproc)


def train_arguments(recipe: str, overrides: Sequence[str], name: str | None, runs: Path) -> list[str]:
    """The command line of the verb `train`, from the verb on."""
    arguments = ["train", recipe, "--runs", str(runs)]
    if name is not None:
        arguments += ["--name", name]
    return arguments + [word for override in overrides for word in ("--set", override)]


def positive(name: str, number: int) -> int:
    if number < 1:
        raise UserError(f"{name} {number} is too few; give at least 1")
    return number
