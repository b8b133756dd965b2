"""A span of time counted in steps, which must be the same ones on all ranks."""

import time

from pretrain.engine.agreement import from_rank_0


class Pace:
    """Says at which step a span of time is over, by the clock of rank 0.

    To ask it costs a message, so the ranks ask after half of the steps that seem to be left: a dozen times a span.
    """

    def __init__(self, seconds: float):
        """0: never."""
        self.seconds = seconds
        self.begin(0)

    def begin(self, step: int) -> None:
        self.first_step, self.first_seconds = step, time.monotonic()
        self.next_look = step + 1

    def is_over(self, step: int) -> bool:
        """Collective at some steps, the same on all ranks."""
        if not self.seconds or step < self.next_look:
            return False
        seconds = from_rank_0(time.monotonic() - self.first_seconds)
        per_step = seconds / (step - self.first_step)
        self.next_look = step + max(1, int((self.seconds - seconds) / per_step / 2))
        return seconds >= self.seconds
