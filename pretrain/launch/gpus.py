"""Counts the GPUs that this process may use, without importing torch."""

import os
import re
import shutil
import subprocess
from itertools import takewhile

from model.errors import UserError

RANKS_WITHOUT_GPUS = 2


def ranks_of_node() -> int:
    """How many ranks this machine runs where nobody says a number: one for each GPU, or 2."""
    return count_gpus() or RANKS_WITHOUT_GPUS


def check_ranks(number: int) -> None:
    """Raises UserError where this machine has GPUs, but fewer than ranks that are to compute on them."""
    gpus = count_gpus()
    if 0 < gpus < number:
        there = f"there {'is' if gpus == 1 else 'are'} {gpus}"
        raise UserError(
            f"{number} processes need a GPU each, and {there}; start {gpus} (--nproc {gpus}), or let the CPU compute: "
            "DS_ACCELERATOR=cpu"
        )


def count_gpus() -> int:
    """The entries of CUDA_VISIBLE_DEVICES if it is set, else what SLURM says, else all that nvidia-smi lists.

    None where DS_ACCELERATOR says that the CPU is to compute.
    """
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _count_visible(visible.split(","))
    given = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if given.isascii() and given.isdigit():
        return int(given)
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout
    if re.search(r"^\s+MIG ", listed, re.MULTILINE):
        return 1
    return len(re.findall(r"^GPU ", listed, re.MULTILINE))


def _count_visible(entries: list[str]) -> int:
    """CUDA reads the list up to the first entry that names no device: -1, or a word such as NoDevFiles.

    Of the instances that GPUs are divided into (MIG), a process sees only one.
    """
    named = takewhile(lambda entry: entry.isdigit() or entry.startswith(("GPU-", "MIG-")), map(str.strip, entries))
    found = [entry.startswith("MIG-") for entry in named]
    return found.count(False) + min(found.count(True), 1)
