"""Keeps torch's compiler out of a rank that compiles nothing: to import it takes longer than to import torch.

Two kinds of code load it all the same. Functions that torch keeps from being traced do so at their first call: one of
optimizers, and arithmetic with tensors on the device `meta`, which tells what a change of shape does to the steps. And
DeepSpeed's Muon optimizer, which DeepSpeed looks at for every gradient, does as it is imported. Once anything else has
loaded the compiler, both do what they always did.
"""

import sys
from collections.abc import Callable
from functools import lru_cache, wraps
from inspect import getclosurevars
from typing import Any

import torch

CACHE = "__dynamo_disable"
"""Where `torch._disable_dynamo` keeps what it calls instead of a function, from the first call on."""


@lru_cache(None)
def keep_compiler_out() -> None:
    for function in (torch.optim.Optimizer.add_param_group, *vars(torch._refs).values()):
        while hasattr(function, "__wrapped__"):
            if getattr(function, "__code__", None) is _DISABLED:
                call_directly(function)
            function = function.__wrapped__
    _import_muon()


_DISABLED = torch._disable_dynamo(lambda: None).__code__
"""Shared by all that `torch._disable_dynamo` returns."""


def call_directly(function: Any) -> None:
    """`torch._disable_dynamo` turns tracing off around a function. Nothing traces until the compiler is loaded."""
    inner = getclosurevars(function).nonlocals["fn"]

    def direct(*arguments: Any, **options: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return inner(*arguments, **options)
        if getattr(inner, CACHE, None) is direct:
            delattr(inner, CACHE)
        return function(*arguments, **options)

    setattr(inner, CACHE, direct)


def _import_muon() -> None:
    """Its kernels are compiled at their first call, not at import."""
    compile_now = torch.compile

    def compile_later(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def compiled(*arguments: Any, **options: Any) -> Any:
            return compile_now(function)(*arguments, **options)

        return compiled

    torch.compile = compile_later  # type: ignore[assignment]
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    finally:
        torch.compile = compile_now
