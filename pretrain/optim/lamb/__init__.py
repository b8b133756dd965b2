"""LAMB (You et al. 2020, Large batch optimization for deep learning, arXiv 1904.00962, algorithm 2).

For every parameter w with gradient g:

    m = beta1 m + (1 - beta1) g                      v = beta2 v + (1 - beta2) g^2
    r = m^ / (sqrt(v^) + eps) + decay w              m^ and v^: divided by 1 - beta^step, with bias_correction
    w = w - lr |w| / |r| r                           the trust ratio |w| / |r|: within trust_bounds; 1 where a norm is 0

NVLAMB (NVIDIA 2019) first divides all gradients by the norm of the whole model's gradient: `prenormalize`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from model.errors import UserError
from pretrain.optim.options import LayerwiseOptions
from pretrain.settings.values import Number

if TYPE_CHECKING:
    from growth.moments import MomentRule
    from pretrain.optim.lamb.step import Lamb


class LambOptions(LayerwiseOptions):
    name: ClassVar[str] = "lamb"

    trust_bounds: tuple[Annotated[Number, Field(ge=0)], Annotated[Number, Field(gt=0)]] | None = None
    """LAMB: smallest and largest trust ratio."""
    prenormalize: Literal["never", "above_one", "always"] = "never"
    """LAMB: divide the gradients by their global norm first (NVLAMB). `above_one` does so only if the norm is above
    1."""

    def check(self) -> None:
        super().check()
        if self.trust_bounds and self.trust_bounds[0] > self.trust_bounds[1]:
            raise UserError(f"trust_bounds {list(self.trust_bounds)} has the larger bound first; swap them")

    def make(self, groups: list[dict[str, Any]]) -> Lamb:
        from pretrain.optim.lamb.step import Lamb

        bounds = self.trust_bounds or (0.0, math.inf)
        return Lamb(groups, trust_bounds=bounds, prenormalize=self.prenormalize, **self.shared_arguments)

    @property
    def moment_rule(self) -> MomentRule:
        """Dividing by a norm above one is treated like clipping, which moment rules ignore."""
        from growth.moments import of_gradients, of_unit_model_gradients

        return of_unit_model_gradients if self.prenormalize == "always" else of_gradients
