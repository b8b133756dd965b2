"""The mean loss of each entry of the vocabulary, by which a run keeps and drops tokens.

The table is a part of the run's state and outlives the models of its stages, which have copies (`losses.py`).
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from model.lazy import Tensor, torch

START = 10.0
"""The mean loss of an entry that was never predicted: about that of a model that knows nothing."""
SPECIAL = 1e4
"""Above all losses: special tokens are kept before others."""
_STORED = "<f4"


@dataclass(frozen=True, eq=False)
class LossTable:
    """A moving average of the loss of each entry of the vocabulary. [V] fp32."""

    values: Tensor

    @classmethod
    def fresh(cls, vocab_size: int) -> "LossTable":
        return cls(torch.full((vocab_size,), START, dtype=torch.float32, device="cpu"))

    def after(self, sums: Tensor, beta: float) -> "LossTable":
        """The table after a step. sums [2, V] fp64: of each entry the losses over the global batch, and how many.

        A step counts once, by its mean loss. Entries that were not predicted stay."""
        losses, counts = sums
        old = self.values.to(sums)
        new = beta * old + (1 - beta) * losses / counts.clamp_min(1)
        return LossTable(torch.where(counts > 0, new, old).float())

    def importance(self, special: Sequence[int]) -> Tensor:
        """What tokens are ranked by, [V] fp32. special: the ids of those that are kept before others."""
        values = self.values.clone()
        for each in special:  # one by one: a list of them would be copied to a GPU, which waits for its update
            values[each] = SPECIAL
        return values

    def to_json(self) -> str:
        return base64.b64encode(self.values.cpu().numpy().astype(_STORED).tobytes()).decode()

    @classmethod
    def from_json(cls, text: str) -> "LossTable":
        """Raises ValueError for anything but such a text."""
        return cls(torch.frombuffer(bytearray(base64.b64decode(text, validate=True)), dtype=torch.float32))
