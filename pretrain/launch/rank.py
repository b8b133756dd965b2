"""One rank, which dies with its agent: `python -m pretrain.launch.rank MODULE ARGUMENTS` runs MODULE as `-m` would."""

import os
import runpy
import sys

from pretrain.launch import leash, start_up
from pretrain.launch.outcome import ExitCode

PROCESS = "ESPALIER_RANK_PROCESS"
"""Environment variable: the process id of a rank, which it sets itself. Processes that inherit it are none."""

RECIPE = "ESPALIER_RECIPE"
"""Environment variable of ranks: the recipe as JSON, which each of them would read otherwise."""

LONGEST_VARIABLE = 100_000
"""Characters. Linux allows 128 KiB."""

OF_A_RANK = (
    RECIPE,
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("ROLE_WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_USE_AGENT_STORE"),
)
"""What torchrun tells a rank. Scripts for clusters set some of it for other programs."""


def is_rank() -> bool:
    """Whether this process was started as one rank of several."""
    return os.environ.get(PROCESS) == str(os.getpid())


def forget_ranks() -> None:
    """Drops what the environment of a process that is no rank says of ranks."""
    if not is_rank():
        for name in OF_A_RANK:
            os.environ.pop(name, None)


def hand_on(recipe: str) -> None:
    """To the ranks that this process starts, unless it is too long."""
    if recipe and len(recipe) <= LONGEST_VARIABLE:
        os.environ[RECIPE] = recipe


if __name__ == "__main__":
    leash.die_with_parent()
    os.environ[PROCESS] = str(os.getpid())
    start_up.start()
    start_up.finished("launch")
    module = sys.argv[1]
    del sys.argv[1]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # a traceback from every rank would say nothing
        sys.exit(ExitCode.INTERRUPTED)
