"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum whose singular values are all brought to one.

For every matrix W of a layer, with gradient G:

    M = mu M + (1 - mu) G                            U = mu M + (1 - mu) G with nesterov, else M
    X = U / |U|                                      then `steps` times, with (a, b, c) = (3.4445, -4.775, 2.0315):
    A = X X^T,  X = a X + (b A + c A^2) X            Newton-Schulz: singular values approach 1, vectors stay
    W = W - lr (scale X + decay W)

Jordan's code began with M = mu M + G; both agree, because X does not depend on the size of U. As a mean of gradients
M is stored as exp_avg, like Adam's first moment, so a change of shape treats it as a gradient. There is no second one.

    scale    spectral   sqrt(rows / columns)             Bernstein (2025): the update has the operator norm of a step
             jordan     sqrt(max(1, rows / columns))     Jordan's
             moonshot   0.2 sqrt(max(rows, columns))     Liu et al. (2025, arXiv 2502.16982): the update is as large as
                                                         AdamW's usually is, whose learning rate and decay then fit

Rows are what a matrix puts out, columns what it takes in. All else (embeddings, heads of the model, norms, biases,
coefficients) takes AdamW's step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from model.parameters import parameter_table
from pretrain.optim.muon.matrices import matrices_of, update_flops
from pretrain.optim.options import OptimizerOptions, StepWork
from pretrain.settings.values import Number, Positive, Rate, Section

if TYPE_CHECKING:
    from model.config import BertConfig
    from model.parameter_spec import ParameterSpec
    from model.shape import Shape
    from pretrain.optim.groups import GroupRules
    from pretrain.optim.muon.step import Muon

Scale = Literal["spectral", "jordan", "moonshot"]


class Fallback(Section):
    """AdamW's settings, for everything except the matrices of layers; it also takes the optimizer's `betas`, `eps`."""

    lr_factor: Annotated[Number, Field(ge=0)] = 1.0
    """Muon: learning rate of AdamW, as a fraction of `optimizer.lr`."""
    weight_decay: Annotated[Number, Field(ge=0, lt=1)] | None = None
    """Muon: weight decay of AdamW. Defaults to `optimizer.weight_decay`."""


class MuonOptions(OptimizerOptions):
    name: ClassVar[str] = "muon"
    steps_elementwise: ClassVar[bool] = True

    momentum: Rate = 0.95
    """Muon: decay rate of the momentum, per step. `betas` and `eps` are those of AdamW, which updates everything
    except the matrices of layers."""
    nesterov: bool = True
    """Muon: look one step ahead, at the mean of momentum and gradient."""
    steps: Positive = 5
    """Muon: steps of the Newton-Schulz iteration."""
    scale: Scale = "spectral"
    """Muon: factor of the update. `spectral` is sqrt(rows / columns), which even widening leaves exact; `jordan`
    sqrt(max(1, rows / columns)); `moonshot` 0.2 sqrt(max(rows, columns)), to which AdamW's learning rate fits."""
    heads: Literal["together", "apart"] = "together"
    """Muon: orthogonalize the matrices of attention as a whole, or head by head. Only `together` stays exact when heads
    are copied."""
    fallback: Fallback = Fallback()

    def make(self, groups: list[dict[str, Any]]) -> Muon:
        from pretrain.optim.muon.step import Muon

        return Muon(
            groups,
            momentum=self.momentum,
            nesterov=self.nesterov,
            steps=self.steps,
            scale=self.scale,
            heads_apart=self.heads == "apart",
            betas=self.betas,
            eps=self.eps,
        )

    @property
    def group_rules(self) -> GroupRules:
        return replace(
            super().group_rules,
            orthogonalizes=True,
            other_lr=self.fallback.lr_factor,
            other_decay=self.fallback.weight_decay,
        )

    def decay_rates(self, spec: ParameterSpec) -> tuple[float, ...]:
        return (self.momentum,) if spec.is_layer_matrix else self.betas

    def step_flops(self, shape: Shape) -> int:
        trained = (spec for spec in parameter_table(shape).values() if spec.trainable)
        return sum(update_flops(matrix.size, self.steps) for matrix in matrices_of(trained, self.heads == "apart"))

    def step_work(self, config: BertConfig, tensor_parallel: int, data_parallel: int, zero_stage: int) -> StepWork:
        from model.parallel.layout import ParallelLayout
        from pretrain.optim.muon.work import work_of

        layout = ParallelLayout(tensor_parallel, data_parallel)
        return work_of(config, layout, zero_stage, self.group_rules, self.heads == "apart", self.steps)
