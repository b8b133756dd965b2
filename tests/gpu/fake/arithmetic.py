"""What kernels would compute, computed on the CPU: the memory of a fake GPU is memory of the host."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.gpu.fake.attention import ATTENTION

WITHOUT_KERNELS = {
    "aten::empty", "aten::empty_strided", "aten::empty_like", "aten::new_empty", "aten::new_empty_strided",
    "aten::set_", "aten::resize_", "aten::record_stream", "aten::_pin_memory", "aten::is_pinned",
    "aten::_local_scalar_dense",
}  # fmt: skip


@contextmanager
def arithmetic() -> Iterator[None]:
    """Inside, operators on the GPU have results: those of the same operators on the CPU."""
    to_text = torch._tensor_str._str

    def shape_alone(tensor: Tensor, **options: Any) -> str:  # torch leaves all modes to read the numbers that it prints
        return f"<{tuple(tensor.shape)} on the GPU>" if tensor.is_cuda else to_text(tensor, **options)

    with Arithmetic(), patch.object(torch._tensor_str, "_str", shape_alone):
        yield


class Arithmetic(TorchDispatchMode):
    """Runs each operator twice.

    As it is, it checks devices, types and shapes, takes memory, and launches kernels that do nothing. Then it runs on
    copies of its inputs on the CPU, and what comes out is written where it belongs.
    """

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        given = arguments, options or {}
        if not any(map(_on_gpu, tree_leaves(given))) or _has_no_kernel(operator):
            return operator(*arguments, **given[1])
        copies: dict[Any, tuple[Tensor, Tensor]] = {}

        def on_cpu(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_cuda:
                place = value.data_ptr(), value.dtype, value.shape, value.stride()
                return copies.setdefault(place, (value, on_host(value).clone()))[1]
            if isinstance(value, torch.device):
                return torch.device("cpu")
            return None if isinstance(value, torch.Generator) else value

        arguments_there, options_there = tree_map(on_cpu, given)
        counts = _counts(operator, given)
        real = None if counts else operator(*arguments, **given[1])
        computed = _compute(operator, arguments_there, options_there)
        if operator._schema.is_mutable:
            for tensor, copy in copies.values():
                on_host(tensor).copy_(copy)
        if counts:
            return arguments[0] if operator._schema.is_mutable else torch.ops.aten._to_copy(computed, device="cuda")
        return _filled(real, computed, {id(tensor) for tensor, _ in copies.values()})


def on_host(tensor: Tensor) -> Tensor:
    """The same memory as a tensor of the CPU."""
    if not tensor.is_cuda:
        return tensor
    if not tensor.numel():
        return torch.empty_like(tensor, device="cpu")
    storage = tensor.untyped_storage()
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    whole = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    return torch.empty(0, dtype=tensor.dtype).set_(whole, tensor.storage_offset(), tensor.shape, tensor.stride())


def _on_gpu(value: Any) -> bool:
    return value.is_cuda if isinstance(value, Tensor) else isinstance(value, torch.device) and value.type == "cuda"


def _has_no_kernel(operator: Any) -> bool:
    """Collectives, which move real memory; views; and what only takes memory or reads it."""
    is_view = any(result.alias_info and not result.alias_info.is_write for result in operator._schema.returns)
    return operator.namespace == "c10d" or is_view or operator._schema.name in WITHOUT_KERNELS


def _counts(operator: Any, given: Any) -> bool:
    """Whether the host would read what a kernel has counted: the elements that are chosen, by which it takes memory."""
    by_mask = operator._schema.name in ("aten::index", "aten::index_put_") and any(
        isinstance(value, Tensor) and value.dtype == torch.bool for value in given[0][1]
    )
    return by_mask or operator._schema.name in ("aten::nonzero", "aten::masked_select")


def _compute(operator: Any, arguments: Any, options: Any) -> Any:
    name = operator._schema.name
    if name in ATTENTION:
        names = [argument.name for argument in operator._schema.arguments]
        return ATTENTION[name](**{**dict(zip(names, arguments, strict=False)), **options})
    if name == "aten::native_layer_norm_backward":  # statistics are fp32, which the CPU does not take beside 16 bit
        arguments = tree_map(lambda value: value.float() if isinstance(value, Tensor) else value, arguments)
    return operator(*arguments, **options)


def _filled(real: Any, computed: Any, inputs: set[int]) -> Any:
    """The results, with their numbers. `inputs` have theirs."""
    if isinstance(real, list | tuple):
        return type(real)(
            _filled(one, computed[index] if index < len(computed) else one, inputs) for index, one in enumerate(real)
        )
    if not isinstance(real, Tensor):
        return computed
    if id(real) not in inputs and real is not computed:
        if real.shape != computed.shape:  # it depends on numbers that the device would have looked at
            return torch.ops.aten._to_copy(computed, device=real.device)
        on_host(real).copy_(computed)
    return real
