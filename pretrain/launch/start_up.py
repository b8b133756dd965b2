"""How long a rank takes from the start of its launcher to its first step, part by part.

Whoever has finished a part says so: it took the time since the part before. A process that no launcher has started
measures nothing.
"""

import gc
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

BEGAN = "ESPALIER_BEGAN"
"""Environment variable of a rank: when its launcher started it, in seconds since the epoch."""


class _Clock:
    def __init__(self) -> None:
        self.parts: defaultdict[str, float] = defaultdict(float)
        self.last: float | None = None
        """None: it does not run."""


_clock = _Clock()


def begun() -> dict[str, str]:
    """The variable that starts the clock of the ranks, unless it was started on another machine for them."""
    return {BEGAN: os.environ.get(BEGAN) or repr(time.time())}


def start() -> None:
    """In a rank, as early as possible."""
    if text := os.environ.pop(BEGAN, None):  # its children are no ranks
        _clock.parts, _clock.last = defaultdict(float), min(float(text), time.time())


def finished(part: str, compile_seconds: float = 0.0) -> None:
    """`compile_seconds`: how much of its time is the part `compile` instead."""
    if _clock.last is not None:
        now = time.time()
        _clock.parts[part] += now - _clock.last - compile_seconds
        _clock.parts["compile"] += compile_seconds
        _clock.last = now


def stop() -> dict[str, float]:
    """Stops the clock. Returns the seconds of each part; nothing when it did not run."""
    parts = dict(_clock.parts) if _clock.last is not None else {}
    _clock.last = None
    return {part: seconds for part, seconds in parts.items() if seconds}


@contextmanager
def importing() -> Iterator[None]:
    """Around the imports of a process of our own. What they make stays: to look for garbage in it takes a fifth of
    their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
