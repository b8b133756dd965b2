"""Densifying: a low-rank layer becomes a full one, W = up down. The function is preserved (tier 1).

Yang et al. 2020 (CoRe, arXiv 2011.13633), the FFN's refinement; Gu et al. 2021 (arXiv 2010.12562), factorisation. The
factors' gradients are G_up = G down^T and G_down = up^T G, so their exp_avg determines that of G except outside both
the rows of `down` and the columns of `up`. Tier 3 for the moments: by default (`transform`) the least-squares estimates

    exp_avg     = argmin_M  |M down^T - m_up|^2 + |up^T M - m_down|^2    (the smallest such M)
    exp_avg_sq  = a b^T / sqrt(mean a mean b)
                  a_o = mean_r v_up[o, r] / |down_r|^2,   b_i = mean_r v_down[r, i] / |up_r|^2

The second assumes uncorrelated entries of G and is a rank-one fit, as in Adafactor. The less of G the factors saw, the
smaller is the least-squares exp_avg; it is scaled so that updates of the full layer are as large as those of the
factors were. `copy` omits that scaling; `reset` starts the layer at step 0.
"""

from dataclasses import replace
from typing import ClassVar

from growth.change import ShapeChange
from growth.operators.base import Inputs, Operator
from growth.partial_shape import PartialShape
from growth.state import Fetch, Record
from growth.update_size import UpdateSize
from model.config import BertConfig
from model.errors import UserError
from model.lazy import Tensor, torch
from model.parameters import ParameterSpec, parameter_table


class Densify(Operator):
    name: ClassVar[str] = "densify"
    changes: ClassVar[tuple[str, ...]] = ("low_rank",)

    def target(self, source: BertConfig, wanted: PartialShape) -> BertConfig:
        if not source.low_rank:
            raise UserError("grow densify: no layer has low rank, so there is nothing to densify; leave it out")
        target = source.replace(low_rank=wanted.get("low_rank", {}))
        before, after = dict(source.low_rank), dict(target.low_rank)
        for name, rank in after.items():
            if before.get(name) != rank:
                raise UserError(
                    f"grow densify: low_rank.{name} {before.get(name, 'full')} -> {rank} is not full rank; densify "
                    "only makes layers full, so leave the others unchanged"
                )
        return target

    def change(self, source: BertConfig, target: BertConfig, inputs: Inputs = Inputs()) -> ShapeChange:  # noqa: B008
        if self.moments == "reset":  # only the layers that change start over
            return self.rule(source, target, inputs)
        return super().change(source, target, inputs)

    def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
        old_table = parameter_table(source)

        def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
            if spec.name in old_table:
                return fetch(spec.name)
            layer = spec.name.removesuffix(".weight")
            up, down = fetch(f"{layer}.up"), fetch(f"{layer}.down")
            weight = flat(up.weight) @ flat(down.weight, keep="first")
            if self.moments == "reset":
                return Record.fresh(weight.view(spec.shape))
            tensors = [weight, gradient_estimate(up, down), *square_estimate(up, down)]
            full = Record.of((tensor.reshape(spec.shape) for tensor in tensors), min(up.step, down.step))
            if self.moments == "copy" or full.exp_avg_sq is None:
                return full
            size = UpdateSize()
            size.note(up)
            size.note(down)
            return replace(full, exp_avg=full.exp_avg * size.over(full).sqrt())

        return ShapeChange(source, target, rule)


def flat(factor: Tensor, keep: str = "last") -> Tensor:
    """A factor as a matrix: up [outputs, rank] (its last axis kept), down [rank, inputs] (its first)."""
    return factor.reshape(-1, factor.shape[-1]) if keep == "last" else factor.flatten(1)


def gradient_estimate(up: Record, down: Record) -> Tensor:  # [outputs, inputs]
    """The smallest least-squares solution of the first equation above, solved in the factors' singular bases."""
    u, d = flat(up.weight).double(), flat(down.weight, "first").double()
    right = flat(up.exp_avg).double() @ d + u @ flat(down.exp_avg, "first").double()
    columns, u_squared, _ = torch.linalg.svd(u, full_matrices=False)
    _, d_squared, rows = torch.linalg.svd(d, full_matrices=False)
    u_squared, d_squared = u_squared.square(), d_squared.square()
    inside = columns.T @ right @ rows.T
    outside = right @ rows.T - columns @ inside  # outside the columns of up
    below = columns.T @ right - inside @ rows  # outside the rows of down
    estimate = columns @ (inside / (u_squared.unsqueeze(1) + d_squared)) @ rows
    estimate = estimate + (outside / d_squared) @ rows + columns @ (below / u_squared.unsqueeze(1))
    return estimate.to(up.weight.dtype)


def square_estimate(up: Record, down: Record) -> list[Tensor]:  # [outputs, inputs], if there are second moments
    if up.exp_avg_sq is None or down.exp_avg_sq is None:
        return []
    u, d = flat(up.weight), flat(down.weight, "first")
    outputs = (flat(up.exp_avg_sq) / d.square().sum(1)).mean(1)
    inputs = (flat(down.exp_avg_sq, "first") / u.square().sum(0).unsqueeze(1)).mean(0)
    scale = (outputs.mean() * inputs.mean()).sqrt().clamp_min(torch.finfo(u.dtype).tiny)
    return [torch.outer(outputs, inputs) / scale]
