"""Signals that ask a run to save itself and leave. Imports nothing heavy: handlers stand before torch is loaded."""

import signal
from collections.abc import Sequence

received: str | None = None
"""The name of the last signal that came, read at the step boundaries."""


def listen(names: Sequence[str]) -> None:
    """From now on these signals are remembered instead of ending the process."""
    for name in names:
        signal.signal(signal.Signals[name], _remember)


def _remember(number: int, frame) -> None:
    global received
    received = signal.Signals(number).name
