"""Signals that ask a run to save itself and leave. Imports nothing heavy: handlers stand before torch is loaded."""

import signal
from collections.abc import Sequence

ASKING = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")

received: str | None = None
"""The name of the last signal that came, read at the step boundaries."""

_listening = False


def listen(names: Sequence[str]) -> None:
    """From now on these signals are remembered instead of ending the process; the others end it.

    (launch.sh has torchrun ignore them, and what is ignored stays ignored in a child.)
    """
    global _listening
    _listening = True
    for name in ASKING:
        signal.signal(signal.Signals[name], _remember if name in names else signal.SIG_DFL)


def stop_listening() -> None:
    """For a process that is about to exit: a signal that comes now would end it as a failure, so it does nothing."""
    if _listening:
        for name in ASKING:
            signal.signal(signal.Signals[name], signal.SIG_IGN)


def _remember(number: int, frame) -> None:
    global received
    received = signal.Signals(number).name
