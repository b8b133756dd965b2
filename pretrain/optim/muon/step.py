"""The step of Muon under any partitioning; the formulas are in `__init__.py`.

Momentum is kept, and moved on, where the parts of a matrix lie. What travels is the update before and after it is
orthogonalized, in rounds: while one is computed, the next comes in and the one before goes back.
"""

from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.optim.layerwise import LayerwiseOptimizer, Part, Partition
from pretrain.optim.muon.homes import Homes, Round, Span
from pretrain.optim.muon.matrices import Matrix
from pretrain.optim.muon.newton_schulz import orthogonalize, scale_of
from pretrain.optim.muon.travel import Arriving, put_together, send, taken_apart
from pretrain.optim.new_units import NewEntries, adamw_apart, fused_adamw


class Muon(LayerwiseOptimizer):
    """Groups with `orthogonalize` are matrices: `attach` has to say how they are divided. The others take AdamW's
    step."""

    def __init__(
        self,
        params: Any,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        steps: int = 5,
        scale: str = "spectral",
        heads_apart: bool = False,
        **adamw: Any,
    ):
        """adamw: lr, betas, eps and weight_decay."""
        super().__init__(params, **adamw)
        self.momentum, self.nesterov, self.num_iterations = momentum, nesterov, steps
        self.scale, self.heads_apart = scale, heads_apart
        self._rounds: list[Round] = []

    def attach(self, partition: Partition) -> None:
        super().attach(partition)
        assert partition.division is not None
        homes = Homes.of(partition.division, self.heads_apart, self.num_iterations)
        self._rounds = homes.rounds(dist.get_rank() if dist.is_initialized() else 0)

    def update(self, parts: list[Part], partition: Partition) -> None:
        division = partition.division
        if division is None:  # DeepSpeed may step once while it builds an engine, without gradients
            assert not any(part.group["lr"] for part in parts), "attach says how matrices are divided"
            return
        _adamw([part for part in parts if not part.group["orthogonalize"]], self.new_entries)
        names = list(division.table)
        matrices = {names[part.segment.parameter]: part for part in parts if part.group["orthogonalize"]}
        if matrices:
            self._advance(list(matrices.values()))
        if self._rounds:  # all ranks take part, also one that holds no part of a matrix
            _Step(self, matrices, division.layout.tensor_parallel, torch.device(partition.device)).run(self._rounds)

    def _advance(self, parts: list[Part]) -> None:
        """Moves the momentum on. The update, not yet orthogonal, takes the gradient's place."""
        gradients, momenta = [part.gradient for part in parts], [part.exp_avg for part in parts]
        torch._foreach_lerp_(momenta, gradients, 1 - self.momentum)
        if self.nesterov:
            torch._foreach_lerp_(gradients, momenta, self.momentum)
        else:
            torch._foreach_copy_(gradients, momenta)


class _Step:
    """One step over the matrices. parts: this rank's, by name."""

    def __init__(self, muon: Muon, parts: dict[str, Part], tensor_parallel: int, device: torch.device):
        self.muon, self.parts, self.tensor_parallel, self.device = muon, parts, tensor_parallel, device
        held = next(iter(parts.values())).weight.dtype if parts else torch.float32
        self.like = torch.empty(0, dtype=torch.bfloat16 if device.type == "cuda" else held, device=device)
        """What travels and is computed with: bf16 on a GPU."""

    def run(self, rounds: list[Round]) -> None:
        coming, going = self._gather(rounds[0]), None
        for index, round in enumerate(rounds):
            following = self._gather(rounds[index + 1]) if index + 1 < len(rounds) else None
            back = self._orthogonalize(round, coming)
            if going is not None:
                self._write(going)
            coming, going = following, back
        if going is not None:
            self._write(going)

    def _gather(self, round: Round) -> Arriving | None:
        return send(round.given, round.gathered, self._own, self.like) if round.is_gathered else None

    def _orthogonalize(self, round: Round, coming: Arriving | None) -> Arriving | None:
        """What the round sends back. Its own parts are written at once."""
        parts = [(span, self._own(span)) for span in round.kept] + (coming.parts() if coming else [])
        wholes = put_together(round, parts, self.tensor_parallel)
        shards: dict[Matrix, list[Tensor]] = {}
        for matrix, result in zip(round.homed, _orthogonal(wholes, self.muon.num_iterations), strict=True):
            shards[matrix] = taken_apart(matrix, result, self.tensor_parallel)

        def result_of(span: Span) -> Tensor:
            return shards[span.matrix][span.shard].narrow(0, span.start, span.numel)

        back = send(round.returned, round.taken, result_of, self.like) if round.is_returned else None
        self._write_parts([(span, result_of(span)) for span in round.kept])
        return back

    def _own(self, span: Span) -> Tensor:
        """This rank's part of an update, where and as it is computed with."""
        return self.parts[span.matrix.name].gradient.to(self.like)

    def _write(self, arriving: Arriving) -> None:
        self._write_parts(arriving.parts())

    def _write_parts(self, parts: list[tuple[Span, Tensor]]) -> None:
        for span, update in parts:
            part = self.parts[span.matrix.name]
            _, rows, columns = span.matrix.size
            lr = part.group["lr"]
            scale, decay = scale_of(self.muon.scale, rows, columns), part.group["weight_decay"]
            factor = self._factor(part)
            if factor is None:
                part.weight.mul_(1 - lr * decay)
                part.weight.add_(update.to(part.weight), alpha=-lr * scale)
            else:
                part.weight.sub_(factor * lr * (scale * update.to(part.weight) + decay * part.weight))

    def _factor(self, part: Part) -> Tensor | None:
        """Of each element's learning rate, [numel]; None: all have the same."""
        entries = self.muon.new_entries
        if part.new is None or entries is None or entries.lr_factor == 1:
            return None
        return torch.where(part.new, entries.lr_factor, 1.0).to(part.weight)


def _orthogonal(matrices: list[Tensor], steps: int) -> list[Tensor]:
    """Of each [count, rows, columns]. A GPU computes those of one size together, in a few kernels; on a CPU the result
    would depend on which happen to be together."""
    if not matrices or not matrices[0].is_cuda:
        return [orthogonalize(matrix, steps) for matrix in matrices]
    by_size: dict[torch.Size, list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        by_size[matrix.shape].append(index)
    results: dict[int, Tensor] = {}
    for size, indices in by_size.items():
        stacked = orthogonalize(torch.cat([matrices[index] for index in indices]), steps)
        results |= dict(zip(indices, stacked.split(size[0]), strict=True))
    return [results[index] for index in range(len(matrices))]


def _adamw(parts: list[Part], entries: NewEntries | None) -> None:
    """torch's fused kernel, which AdamW is everywhere else; it takes several parameters with the same settings."""
    apart = [(part, _new_weights(part, part.new, entries)) for part in parts if entries and part.new is not None]
    alike: dict[tuple[int, int], list[Part]] = defaultdict(list)
    for part in parts:
        alike[id(part.group), part.step].append(part)
    for (_, step), some in alike.items():
        gradients, weights, exp_avgs, exp_avg_sqs = map(list, zip(*(part.tensors() for part in some), strict=True))
        fused_adamw(weights, gradients, exp_avgs, exp_avg_sqs, some[0].group, step)
    for part, values in apart:
        assert part.new is not None
        part.weight.masked_scatter_(part.new, values)


def _new_weights(part: Part, new: Tensor, entries: NewEntries) -> Tensor:
    gradient, weight, exp_avg, exp_avg_sq = part.tensors()
    return adamw_apart(new, entries.taken, entries.lr_factor, part.group, (weight, gradient, exp_avg, exp_avg_sq))
