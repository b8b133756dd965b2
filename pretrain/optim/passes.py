"""How an optimizer's arithmetic runs over all parts: compiled or in cache-sized chunks on a CPU, multi-tensor on a GPU.

A step streams every tensor through memory a few times, and that is all its time. So a *pass* does as much as it can
with a part while it is there. It is written twice: for one part, as plain tensor code that a compiler fuses into one
loop; and for many, in torch's multi-tensor operations, which on a GPU launch one kernel for all parts (on a CPU each of
them would stream the whole memory).
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from os import environ
from typing import Any

import torch
from torch import Tensor

from pretrain.optim.layerwise import Part

CHUNK = 65536
"""Elements that stay in a core's cache: gradient, weight, two moments and a temporary are 1.25 MiB in fp32."""

COMPILE_FROM = 10_000_000
"""Elements on a rank from which compiling, which takes some ten seconds, pays."""

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Pass:
    """Arithmetic in place on (gradient, weight, exp_avg, exp_avg_sq) of a part, with numbers of its own.

    Both forms return squared norms of what they make: `one` scalars, `many` lists of scalars. `many` takes a list for
    every argument.
    """

    one: Callable[..., tuple[Tensor, ...]]
    many: Callable[..., tuple[Tensors, ...]]
    num_norms: int = 0
    in_chunks: bool = True
    """False where `one` makes no temporaries: then nothing is gained by keeping them in the cache."""


def run(step_pass: Pass, parts: list[Part], *numbers: list[Any], compiled: bool = False) -> Tensor:
    """The pass over all parts; each list of numbers has one entry for each part.

    Returns squared norms [num_norms, parts] in float64.
    """
    if _multi_tensor(parts):
        return _run_many(step_pass, parts, *numbers)
    compiled = compiled and can_compile() and sum(part.weight.numel() for part in parts) >= COMPILE_FROM
    squares = torch.empty(step_pass.num_norms, len(parts), dtype=torch.float64)
    for index, part in enumerate(parts):
        own = [number[index] for number in numbers]
        if compiled and part.weight.numel() >= CHUNK:
            norms = _compiled(step_pass.one)(*part.tensors(), *own)
        else:
            norms = _in_chunks(step_pass.one, part.tensors(), own, CHUNK if step_pass.in_chunks else None)
        for kind, norm in enumerate(norms):
            squares[kind, index] = norm
    return squares


def _multi_tensor(parts: list[Part]) -> bool:
    return bool(parts) and parts[0].weight.is_cuda


def _run_many(step_pass: Pass, parts: list[Part], *numbers: list[Any]) -> Tensor:
    tensors = (list(kind) for kind in zip(*(part.tensors() for part in parts), strict=True))
    squares = [torch.stack(list(norms)) for norms in step_pass.many(*tensors, *numbers)]
    return torch.stack(squares) if squares else torch.empty(0, len(parts))


def can_compile() -> bool:
    """Whether there is a C++ compiler, which torch.compile needs on a CPU."""
    return shutil.which(environ.get("CXX", "g++")) is not None


@cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=True)


def _in_chunks(function: Callable, tensors: Tensors, numbers: list[Any], size: int | None) -> list[Tensor]:
    chunks = zip(*(tensor.split(size or len(tensor)) for tensor in tensors), strict=True)
    norms = [function(*chunk, *numbers) for chunk in chunks]
    return [torch.stack(kind).double().sum() for kind in zip(*norms, strict=True)]


def squared_norm(tensor: Tensor) -> Tensor:
    """Of a part [elements], compiled: summed in float64. Of a chunk: a dot product reads once and is exact enough."""
    return tensor.double().square().sum() if torch.compiler.is_compiling() else torch.dot(tensor, tensor)


def squared_norms(tensors: list[Tensor]) -> Tensors:
    """Of many tensors, float64; on a GPU in NVIDIA apex's kernel where it is installed."""
    kernel = _apex_norm()
    if kernel is None or not tensors[0].is_cuda:
        norms = torch.stack(torch._foreach_norm(tensors))
    else:
        overflow = torch.zeros(1, dtype=torch.int32, device=tensors[0].device)
        _, norms = kernel(CHUNK, overflow, [tensors], True)
    return norms.double().square().unbind()


@cache
def _apex_norm() -> Callable | None:
    """The package index has an unrelated `apex`: only the compiled submodule says that NVIDIA's is there."""
    try:
        from amp_C import multi_tensor_l2norm
    except ImportError:
        return None
    return multi_tensor_l2norm


GRADIENT_NORM = Pass(
    one=lambda gradient, weight, exp_avg, exp_avg_sq: (squared_norm(gradient),),
    many=lambda gradient, weight, exp_avg, exp_avg_sq: (squared_norms(gradient),),
    num_norms=1,
)
"""Reads the gradients only."""


def _write(gradient: Tensor, weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, rate: float) -> tuple[Tensor, ...]:
    weight.sub_(gradient, alpha=rate)
    return ()


def _write_many(
    gradient: list[Tensor],
    weight: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    rates: list[float],
) -> tuple[Tensors, ...]:
    torch._foreach_mul_(gradient, rates)
    torch._foreach_sub_(weight, gradient)
    return ()


WRITE = Pass(_write, _write_many, in_chunks=False)
"""w = w - rate r, for updates r that have taken the gradients' place."""
