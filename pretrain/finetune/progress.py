"""Where fine-tuning stands: a line every few seconds."""

import sys
import time

from torch import Tensor

SECONDS_BETWEEN_LINES = 10.0


class Lines:
    """Called after every step of one model's training; the first line comes after some seconds."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.began = self.last = time.monotonic()

    def __call__(self, step: int, num_steps: int, loss: Tensor) -> None:
        """`step` steps of `num_steps` are done."""
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        minutes, seconds = divmod(round((now - self.began) / step * (num_steps - step)), 60)
        print(
            f"seed {self.seed}: step {step:,} of {num_steps:,}, loss {loss.item():.4g}, {minutes}:{seconds:02} left",
            file=sys.stderr,
            flush=True,
        )
