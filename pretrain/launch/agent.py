"""torchrun, in a process that dies with its launcher: `python -m pretrain.launch.agent TORCHRUN-OPTIONS`.

A rank that fails prints why. torchrun would add pages on how it noticed; here it is one line, and this process ends
with the rank's exit code.
"""

import logging
import os
import signal
import sys

from pretrain.launch import leash, open_files, start_up
from pretrain.launch.outcome import ExitCode, is_known, shell_code


def main(arguments: list[str]) -> int:
    os.environ[leash.PARENT] = str(os.getpid())  # for the ranks
    open_files.raise_limit()
    with start_up.importing():
        from torch.distributed.run import main as torchrun

    # Nothing but failures is logged by these, and those are reported below.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun(arguments)
    except Exception as error:
        return report(error)
    return ExitCode.DONE


def report(error: Exception) -> int:
    """Says in one line what torchrun has raised. Returns the exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    if isinstance(error, ChildFailedError):
        rank, failure = error.get_first_failure()
        code = shell_code(failure.exitcode)
        if code != ExitCode.PEER_LOST and not is_known():  # else the rank has said why
            say(f"rank {rank} on {_node()} {ended(failure.exitcode)}")
        return code
    if isinstance(error, RendezvousError):
        say(f"the nodes of the run have not met: {error}")
        return ExitCode.PEER_LOST
    if isinstance(error, SignalException):  # Ctrl-C
        return 128 + error.sigval
    raise error


def ended(exitcode: int) -> str:
    """How, from the exit code as Python has it: negative for a signal."""
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"was killed by {name}" + (", often a sign that memory ran out" if name == "SIGKILL" else "")


def say(line: str) -> None:
    print(f"espalier: {line}", file=sys.stderr, flush=True)


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
