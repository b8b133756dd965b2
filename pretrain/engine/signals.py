"""Signals that ask a run to save itself and stop. Imports nothing heavy: handlers are set before torch is loaded."""

import signal
from collections.abc import Sequence

ASKING = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")

received: str | None = None
"""The name of the last signal received. Read at step boundaries."""

_listening = False


def listen(names: Sequence[str]) -> None:
    """From now on these signals are recorded and do not end the process; the other signals do.

    (launch/local.py starts torchrun with them ignored, and what is ignored stays ignored in a child.)
    """
    global _listening
    _listening = True
    for name in ASKING:
        signal.signal(signal.Signals[name], _remember if name in names else signal.SIG_DFL)


def stop_listening() -> None:
    """For a process that is about to exit: a signal would now make it fail, so all are ignored."""
    if _listening:
        for name in ASKING:
            signal.signal(signal.Signals[name], signal.SIG_IGN)


def _remember(number: int, frame) -> None:
    global received
    received = signal.Signals(number).name
