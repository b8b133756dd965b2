"""A function under random numbers of its own, as operators that torch.compile keeps whole in its graph.

The compiler cannot set a generator. One operator draws a seed, one calls a function under it, and one calls it again
for the gradient, under the same seed: nothing that was drawn is kept, and a compiled block draws what another draws.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Draws = Callable[..., Tensor]
"""Tensors, then whole numbers, then a probability -> a tensor like the first one."""

_known: dict[str, Draws] = {}


def draws(function: Draws) -> Draws:
    """Decorates a function that `in_graph` may call: operators take its name."""
    _known[function.__name__] = function
    return function


def in_graph(function: Draws, arguments: Sequence, rank: int) -> Tensor:
    """function(*arguments) with the rank's own random numbers."""
    tensors = [each for each in arguments if isinstance(each, Tensor)]
    *numbers, probability = arguments[len(tensors) :]
    return _call(function.__name__, tensors, numbers, probability, _own_seed(rank))


@contextmanager
def drawing_from(seed: Tensor, device: torch.device) -> Iterator[None]:
    """Inside, random numbers follow from the seed; afterwards those of outside go on. Of any device's own generator."""
    generator = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index or 0]
    outer = generator.get_state()
    generator.manual_seed(int(seed))
    try:
        yield
    finally:
        generator.set_state(outer)


def own_seed(rank: int) -> Tensor:
    """A scalar on the CPU, drawn from the CPU's stream that all tensor-parallel ranks share: no device waits."""
    return torch.randint(2**62, (), device="cpu") + rank


# Its first call loads the compiler, so graphs alone take it.
_own_seed = torch.library.custom_op(
    "espalier::own_seed", own_seed, mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)


@_own_seed.register_fake
def _(rank: int) -> Tensor:
    return torch.empty((), dtype=torch.int64, device="cpu")


@torch.library.custom_op("espalier::call_with_seed", mutates_args=())
def _call(function: str, tensors: Sequence[Tensor], numbers: Sequence[int], probability: float, seed: Tensor) -> Tensor:
    """Under the same autograd as the gradient: torch may choose a kernel by it, whose random numbers are others."""
    with _autograd():
        arguments = _leaves(tensors)
        with drawing_from(seed, tensors[0].device):
            result = _known[function](*arguments, *numbers, probability).detach()
    return _laid_out_as(tensors[0], result)


@_call.register_fake
def _(function, tensors, numbers, probability, seed):
    return torch.empty_like(tensors[0])


@torch.library.custom_op("espalier::gradient_with_seed", mutates_args=())
def _gradient(
    gradient: Tensor,
    function: str,
    tensors: Sequence[Tensor],
    numbers: Sequence[int],
    probability: float,
    seed: Tensor,
) -> list[Tensor]:
    """Of the floating-point tensors."""
    with _autograd():
        again = _leaves(tensors)
        inputs = _floating(again)
        with drawing_from(seed, gradient.device):
            result = _known[function](*again, *numbers, probability)
        found = torch.autograd.grad(result, inputs, gradient)
    return [_laid_out_as(each.detach(), of_each) for each, of_each in zip(inputs, found, strict=True)]


@_gradient.register_fake
def _(gradient, function, tensors, numbers, probability, seed):
    return [torch.empty_like(each) for each in _floating(tensors)]


def _keep(ctx, inputs, output) -> None:
    ctx.function, tensors, ctx.numbers, ctx.probability, seed = inputs
    ctx.save_for_backward(seed, *tensors)


def _backward(ctx, gradient: Tensor) -> tuple:
    seed, *tensors = ctx.saved_tensors
    found = iter(_gradient(gradient, ctx.function, tensors, ctx.numbers, ctx.probability, seed))
    of_tensors = [next(found) if each.is_floating_point() else None for each in tensors]
    of_numbers: list | None = None if ctx.numbers else []  # torch takes an empty list for one of tensors
    return None, of_tensors, of_numbers, None, None


_call.register_autograd(_backward, setup_context=_keep)


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same values; the floating-point ones require a gradient."""
    return [each.detach().requires_grad_(each.is_floating_point()) for each in tensors]


def _floating(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [each for each in tensors if each.is_floating_point()]


def _laid_out_as(like: Tensor, tensor: Tensor) -> Tensor:
    """With the strides that the compiler was promised; a copy only where a kernel chooses others."""
    promised = torch.empty_like(like)
    return tensor if tensor.stride() == promised.stride() else promised.copy_(tensor)


@contextmanager
def _autograd() -> Iterator[None]:
    """Records operations inside an operator, where torch leaves its autograd out."""
    key, excluded = torch._C.DispatchKey, torch._C._SetExcludeDispatchKeyGuard
    with torch.enable_grad(), excluded(key.AutogradFunctionality, False), excluded(key.ADInplaceOrView, False):
        yield
