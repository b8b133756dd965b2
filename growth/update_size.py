"""How large updates are: the mean square of exp_avg / sqrt(exp_avg_sq), by which Adam moves a parameter.

On stationary gradients it is constant. So if an operator knows one moment of a new parameter better than the other, the
size of the old updates determines how large the other must be.
"""

from growth.moments import ratio
from growth.state import Record
from model.lazy import Tensor, torch


class UpdateSize:
    """The size of several parameters' updates together, noted one at a time so that only one is in memory."""

    def __init__(self) -> None:
        self.noted: list[Tensor] = []  # [sum of squares, number of entries] of each, float64

    def note(self, record: Record) -> Record:
        self.noted.append(_sum_and_count(record))
        return record

    def over(self, record: Record) -> Tensor:  # scalar float64
        """The mean square of the noted updates over that of another parameter's; 1 where either has no moments."""
        square, count = torch.stack(self.noted).sum(0)
        new_square, new_count = _sum_and_count(record)
        return ratio(square / count.clamp_min(1), new_square / new_count.clamp_min(1))


def _sum_and_count(record: Record) -> Tensor:  # [2] float64
    """Over the entries that have had a gradient. Nothing where the size of an update depends on no moment (Muon)."""
    if record.exp_avg_sq is None:
        return torch.zeros(2, dtype=torch.float64)
    update = (record.exp_avg / record.exp_avg_sq.sqrt()).nan_to_num_(0, 0, 0)
    return torch.stack([update.square_().sum(dtype=torch.float64), (record.exp_avg_sq > 0).sum().double()])
