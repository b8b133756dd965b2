"""Dropout: torch's kernel on CUDA; on a CPU the same from cheap random bits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.parallel.own_draws import draws

CHANCES = 2**16
"""On a CPU, 16 random bits decide about an element: a probability is rounded to a multiple of 1 / CHANCES."""


class Dropout(nn.Module):
    """Zeros each element with the given probability while training, and scales the others up. x [...] -> [...]."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.probability) if self.training and self.probability else x


@draws
def dropout(x: Tensor, probability: float) -> Tensor:
    """x [...] -> [...], drawn from the default generator of its device."""
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    return x * scaled_mask(x, probability)


def scaled_mask(x: Tensor, probability: float) -> Tensor:
    """0 where an element of x is dropped, elsewhere the factor that keeps the expectation. Same shape and dtype as x.

    torch's Bernoulli numbers take 40% of a small model's step on a CPU. 64-bit words of the same generator, one for
    four elements, take a fifth of that.
    """
    num_dropped = min(round(probability * CHANCES), CHANCES - 1)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    mask = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(bits, num_dropped - CHANCES // 2, out=mask)
    return mask.mul_(CHANCES / (CHANCES - num_dropped))
