"""What rows ask of the model: masked tokens, or each next one; and how many are masked, from step to step.

`clm` predicts every token of a sequence from those before it, the closing [SEP] included, and attention is causal
(Gisserot-Boukhlef et al. 2025, arXiv 2507.00994, train so first and then `mlm`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Objective = Literal["mlm", "clm"]


@dataclass(frozen=True)
class MaskRate:
    """The share of a sequence's tokens that `mlm` predicts: over the steps of a stage it goes evenly from `first` to
    `last`. A function of the step alone, so that a run that resumes masks what it would have masked."""

    first: float
    last: float

    def at(self, step: float, start: float, end: float) -> float:
        """Of a step of a stage that begins at step `start` and whose last one is the one before `end`."""
        if self.first == self.last or end - start < 2:
            return self.first
        return self.first + (self.last - self.first) * (step - start) / (end - 1 - start)

    @property
    def mean(self) -> float:
        return (self.first + self.last) / 2


def next_tokens(inside: np.ndarray, sizes: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places from which `clm` predicts, and the ids it should find: all but the last place of each piece.

    inside [T] the places of all pieces, one after the other, in `ids`; sizes [P] places of each piece.
    """
    places = np.delete(inside, np.cumsum(sizes) - 1)
    return places, ids[places + 1]
