"""torchrun, in a process that dies with its launcher: `python -m pretrain.launch.agent TORCHRUN-OPTIONS`."""

import os
import sys

from pretrain.launch import leash


def main(arguments: list[str]) -> None:
    os.environ[leash.PARENT] = str(os.getpid())  # for the ranks
    from torch.distributed.run import main as torchrun

    torchrun(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
