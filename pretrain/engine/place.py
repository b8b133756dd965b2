"""Where this process is, by what its launcher says: also for the check before a start, which has no ranks."""

import os


def node_name() -> str:
    """SLURM's name of this node, else the host's name."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def is_first_of_node() -> bool:
    """Whether this rank does for its node what one rank has to do. torchrun says so."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
