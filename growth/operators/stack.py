"""Stacking: the deep model repeats the shallow one; layer i copies layer i mod L.

Gong et al. 2019 (PMLR v97, StackBERT); Gu et al. 2021 (CompoundGrow, arXiv 2010.12562), section on depth. Tier 3: the
function changes, and the moments of copied layers are an estimate.
"""

from typing import ClassVar

from growth.operators.depth import DepthOperator


class Stack(DepthOperator):
    name: ClassVar[str] = "stack"

    def source_layers(self, num_old: int, num_new: int) -> list[int]:
        return [layer % num_old for layer in range(num_new)]
