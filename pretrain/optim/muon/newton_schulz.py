"""The arithmetic of Muon on whole matrices; the formulas are in `__init__.py`."""

import math

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan's: five steps bring singular values between 0.001 and 1 to between 0.7 and 1.2."""

SMALLEST_NORM = 1e-37
"""Of a matrix whose norm's inverse is a number in fp32; smaller ones are as good as zero."""


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """[n, rows, columns] -> the same, each with its singular values near one. Zeros stay zeros.

    In the precision of the argument, except for the norms. Does not depend on a matrix's size: there is nothing to add
    to the norm, by which every singular value is at most one.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    exact = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float64)  # squares in fp32 may underflow
    x = (x * norm.clamp_min(SMALLEST_NORM).reciprocal().to(exact)).to(x.dtype)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def scale_of(name: str, rows: int, columns: int) -> float:
    """The factor of an update, by its name in a recipe."""
    if name == "moonshot":
        return 0.2 * math.sqrt(max(rows, columns))
    ratio = rows / columns
    return math.sqrt(max(1.0, ratio) if name == "jordan" else ratio)
