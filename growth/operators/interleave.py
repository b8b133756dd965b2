"""Interleaving: every layer is followed by its own copies; layer i copies layer floor(i L_old / L_new).

The placement of Chang et al. 2018 (arXiv 1710.10348) and of MSG (Yao et al. 2024, arXiv 2305.02869). Tier 3, like
stacking: the copied moments are an estimate.
"""

from typing import ClassVar

from growth.operators.depth import DepthOperator


class Interleave(DepthOperator):
    name: ClassVar[str] = "interleave"

    def source_layers(self, num_old: int, num_new: int) -> list[int]:
        return [layer * num_old // num_new for layer in range(num_new)]
