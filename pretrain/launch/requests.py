"""Signals that reach a launcher while its ranks run, or are about to."""

import os
import signal
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""The signals that ask ranks to save themselves and leave (`faults.signals` of the recipe names those that do)."""

KEPT = "ESPALIER_SIGNAL"
"""Environment variable: the signal that came before this process did (launch.sh)."""


class Requests:
    """Within a `with`, signals are kept for `take` instead of ending or stopping this process.

    A signal that this process was started to ignore stays ignored, as under nohup. Within another `with`, both share
    what nobody has taken.
    """

    def __init__(self) -> None:
        self._pending: list[signal.Signals] = []
        self._ends: list[signal.Signals] = []
        self._handlers: dict[signal.Signals, signal._HANDLER] = {}

    def take(self) -> signal.Signals | None:
        """The oldest signal that nobody has taken yet."""
        return self._pending.pop(0) if self._pending else None

    @property
    def ask_to_end(self) -> bool:
        """Whether a signal has come that is not Ctrl-Z, taken or not."""
        return bool(self._ends)

    def __enter__(self) -> "Requests":
        for number in (*PASSED_ON, signal.SIGINT, signal.SIGTSTP):
            handler = signal.getsignal(number)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, Requests):
                self._pending, self._ends = outer._pending, outer._ends
            if handler is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._keep)
        if KEPT in os.environ:
            self._keep(signal.Signals[os.environ.pop(KEPT)])
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _keep(self, number: int, frame: FrameType | None = None) -> None:
        self._pending.append(signal.Signals(number))
        if number != signal.SIGTSTP:
            self._ends.append(signal.Signals(number))
