"""How moments follow a change of shape: the part that depends on the optimizer.

An operator maps exp_avg as it maps gradients and exp_avg_sq with the coefficients squared. That is right for moments of
plain gradients: AdamW, LAMB, StableAdamW. Other optimizers average gradients divided by a norm, and the norm changes
with the shape. With G' the mapped gradient, the averages of G / |G| become averages of G' / |G'|:

    exp_avg' = exp_avg_mapped |G| / |G'|             exp_avg_sq' = exp_avg_sq_mapped (|G| / |G'|)^2

and (|G| / |G'|)^2 is estimated by sum(exp_avg_sq) / sum(exp_avg_sq_mapped), which preserves the sum. This is exact if
every unit of an axis gets the same number of copies (k copies on a produced or a consumed axis: exp_avg / sqrt(k)), and
under any map while gradients keep their proportions.
"""

from collections.abc import Callable
from dataclasses import replace

from growth.change import ShapeChange
from growth.state import MOMENTS, Fetch, Record
from model.lazy import Tensor, torch
from model.parameters import ParameterSpec, parameter_table

MomentRule = Callable[[ShapeChange, Fetch], ShapeChange]
"""A change whose moments are those of gradients, and the state it starts from -> the change for this optimizer."""


def of_gradients(change: ShapeChange, fetch: Fetch) -> ShapeChange:
    """AdamW, LAMB, StableAdamW: as the operator says."""
    return change


def of_unit_gradients(change: ShapeChange, fetch: Fetch) -> ShapeChange:
    """LANS: each parameter's gradient is divided by its own norm. A parameter made of several keeps their mean sum."""

    def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
        sources: dict[str, Record] = {}

        def noted(name: str) -> Record:
            sources[name] = fetch(name)
            return sources[name]

        mapped = change.record(spec.name, noted)
        sums = [_sum_of_squares(source) for source in sources.values()] or [torch.zeros((), dtype=torch.float64)]
        return _scaled(mapped, ratio(torch.stack(sums).mean(), _sum_of_squares(mapped)))

    return ShapeChange(change.source, change.target, rule)


def of_unit_model_gradients(change: ShapeChange, fetch: Fetch) -> ShapeChange:
    """NVLAMB: all gradients are divided by the norm of the whole model's. Reads the whole state once."""
    before = torch.stack([_sum_of_squares(fetch(name)) for name in parameter_table(change.source)]).sum()
    after = torch.stack([_sum_of_squares(change.record(name, fetch)) for name in parameter_table(change.target)]).sum()
    scale = ratio(before, after)
    return ShapeChange(
        change.source, change.target, lambda spec, fetch: _scaled(change.record(spec.name, fetch), scale)
    )


def as_kept(change: ShapeChange, moments_of: Callable[[ParameterSpec], tuple[str, ...]]) -> ShapeChange:
    """The change for an optimizer that keeps these moments of each parameter: Muon keeps exp_avg alone of its matrices.

    A second moment that it does not keep is dropped. Where it needs one and there is none, both moments are reset to
    zero, and so is their step count.
    """

    def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
        record = change.record(spec.name, fetch)
        if moments_of(spec) != MOMENTS:
            return replace(record, exp_avg_sq=None)
        return record if record.exp_avg_sq is not None else Record.fresh(record.weight)

    return ShapeChange(change.source, change.target, rule)


def ratio(before: Tensor, after: Tensor) -> Tensor:
    """Of two mean squares; 1 where there are no moments."""
    return torch.where((before > 0) & (after > 0), before / after, torch.ones_like(after))


def _sum_of_squares(record: Record) -> Tensor:
    """0 for a matrix that comes from a run with Muon: a saved state may be another run's."""
    if record.exp_avg_sq is None:
        return torch.zeros((), dtype=torch.float64, device=record.exp_avg.device)
    return record.exp_avg_sq.sum(dtype=torch.float64)


def _scaled(record: Record, scale: Tensor) -> Record:
    """With gradients whose mean square is `scale` times what it was."""
    if record.exp_avg_sq is None:
        return record
    scale = scale.to(record.exp_avg.device)
    return Record(record.weight, record.exp_avg * scale.sqrt(), record.exp_avg_sq * scale, record.step)
