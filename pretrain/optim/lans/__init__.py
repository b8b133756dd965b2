"""LANS (Zheng et al. 2020, Accelerated large batch optimization of BERT pretraining in 54 minutes, arXiv 2006.13484).

For every parameter w with gradient g:

    g = g / |g|                                      of this parameter: no loss scale and no clipping matters
    m = beta1 m + (1 - beta1) g                      v = beta2 v + (1 - beta2) g^2
    r = m^ / (sqrt(v^) + eps) + decay w              m^ and v^: divided by 1 - beta^step, with bias_correction
    c = g / (sqrt(v^) + eps) + decay w
    w = w - lr |w| (beta1 r / |r| + (1 - beta1) c / |c|)                 |w| / |r| and |w| / |c|: 1 where a norm is 0
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pretrain.optim.options import LayerwiseOptions

if TYPE_CHECKING:
    from growth.moments import MomentRule
    from pretrain.optim.lans.step import Lans


class LansOptions(LayerwiseOptions):
    name: ClassVar[str] = "lans"

    def make(self, groups: list[dict[str, Any]]) -> Lans:
        from pretrain.optim.lans.step import Lans

        return Lans(groups, **self.shared_arguments)

    @property
    def moment_rule(self) -> MomentRule:
        from growth.moments import of_unit_gradients

        return of_unit_gradients
