"""Counts the GPUs that this process may use, without importing torch."""

import os
import shutil
import subprocess

RANKS_WITHOUT_GPUS = 2


def ranks_of_node() -> int:
    """How many ranks this machine runs where nobody says a number: one for each GPU, or 2."""
    return count_gpus() or RANKS_WITHOUT_GPUS


def count_gpus() -> int:
    """The entries of CUDA_VISIBLE_DEVICES if it is set, else what SLURM says, else all that nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _count_visible(visible.split(","))
    given = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if given.isascii() and given.isdigit():
        return int(given)
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def _count_visible(entries: list[str]) -> int:
    """CUDA reads the list up to the first entry that names no device: -1, or a word such as NoDevFiles."""
    count = 0
    for entry in map(str.strip, entries):
        if not entry.isdigit() and not entry.startswith(("GPU-", "MIG-")):
            break
        count += 1
    return count
