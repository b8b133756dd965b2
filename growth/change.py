"""A change of shape: for every parameter of the new model, how its record follows from records of the old one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from growth.state import Fetch, Record
from model.config import BertConfig
from model.lazy import Tensor, torch
from model.parameters import ParameterSpec, parameter_table

MomentPolicy = Literal["transform", "copy", "reset", "new_units"]
"""`transform`: by the algebra or the operator's estimate; `copy`: mapped without rescaling; `reset`: zeros, with
the step counted from 0 again; `new_units`: zeros for new units alone (new_units.py)."""

Rule = Callable[[ParameterSpec, Fetch], Record]
"""The record of one parameter of the new model, from records of the old."""


@dataclass(frozen=True)
class ShapeChange:
    source: BertConfig
    target: BertConfig
    rule: Rule

    def record(self, name: str, fetch: Fetch) -> Record:
        """The new record of parameter `name`; `fetch` gives old ones."""
        spec = parameter_table(self.target)[name]
        record = self.rule(spec, fetch)
        for tensor in record.tensors():
            assert tuple(tensor.shape) == spec.shape, f"{name}: {tuple(tensor.shape)} is not {spec.shape}"
        return record

    def then(self, following: "ShapeChange") -> "ShapeChange":
        """Both changes as one: records pass through lazily, one parameter at a time."""
        assert self.target == following.source
        return ShapeChange(
            self.source,
            following.target,
            lambda spec, fetch: following.record(spec.name, lambda name: self.record(name, fetch)),
        )

    def with_moments_reset(self) -> "ShapeChange":
        return ShapeChange(
            self.source, self.target, lambda spec, fetch: self.record(spec.name, fetch).without_moments()
        )


def identity(config: BertConfig, target: BertConfig | None = None) -> ShapeChange:
    """Every parameter unchanged. `target` may differ in fields that no parameter depends on (dropout)."""
    return ShapeChange(config, target or config, lambda spec, fetch: fetch(spec.name))


def mean_record(records: Iterable[Record]) -> Record:
    """Weights and moments averaged, with one record in memory at a time: the shared block's gradient is the mean over
    its uses (see `growth/operators/share.py` for the second moment)."""
    sums: list[Tensor] = []
    steps = []
    for record in records:
        tensors = record.tensors()
        sums = sums or [torch.zeros_like(tensor) for tensor in tensors]
        for total, tensor in zip(sums, tensors, strict=True):
            total += tensor
        steps.append(record.step)
    return Record.of((total / len(steps) for total in sums), max(steps))


def copied(source: BertConfig, spec: ParameterSpec, source_block: int, fetch: Fetch) -> Record:
    """The record of the same parameter in a block of the old model, as wide as there. The attention norm that a first
    layer does without (`first_norm`) and its copy further up needs is fresh."""
    name = source_name(spec, source_block)
    if name in parameter_table(source):
        return fetch(name)
    assert spec.module == "attention.norm", f"{name} is not there"
    like = fetch(name.replace("attention.norm", "feedforward.norm")).weight
    return Record.fresh(torch.full_like(like, 1.0 if spec.init == "ones" else 0.0))


def source_name(spec: ParameterSpec, source_block: int) -> str:
    """The parameter of the same kind in a block of the old model."""
    return f"blocks.{source_block}.{spec.local_name}"


def map_blocks(source: BertConfig, target: BertConfig, source_block_of: Sequence[int]) -> ShapeChange:
    """Target block b copies source block `source_block_of[b]` whole; everything outside the blocks stays."""
    assert len(source_block_of) == target.num_blocks

    def rule(spec: ParameterSpec, fetch: Fetch) -> Record:
        if spec.block is None:
            return fetch(spec.name)
        return copied(source, spec, source_block_of[spec.block], fetch)

    return ShapeChange(source, target, rule)
