"""One rank, which dies with its agent: `python -m pretrain.launch.rank MODULE ARGUMENTS` runs MODULE as `-m` would."""

import runpy
import sys

from pretrain.launch import leash, start_up
from pretrain.launch.outcome import ExitCode

if __name__ == "__main__":
    leash.die_with_parent()
    start_up.start()
    start_up.finished("launch")
    module = sys.argv[1]
    del sys.argv[1]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # a traceback from every rank would say nothing
        sys.exit(ExitCode.INTERRUPTED)
