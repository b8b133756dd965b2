"""DeepSpeed features that would make training inexact here: refused with the reason before anything runs."""

from collections.abc import Callable
from typing import Any, NamedTuple

from model.errors import UserError
from pretrain.engine.config_file import value_at


class Refusal(NamedTuple):
    key: str
    is_refused: Callable[[Any], bool]
    reason: str
    """What goes wrong, and what to do instead."""


_IS_SET: Callable[[Any], bool] = lambda value: value not in (None, False, "auto")  # noqa: E731
_IS_NVME: Callable[[Any], bool] = lambda value: value == "nvme"  # noqa: E731

REFUSALS = (
    Refusal(
        "zero_optimization.offload_optimizer.device",
        _IS_NVME,
        "the optimizer cannot access NVMe-offloaded state between steps, so neither the norm of a whole parameter nor "
        "a change of shape is possible; choose cpu",
    ),
    Refusal(
        "zero_optimization.offload_param.device",
        _IS_NVME,
        "a change of shape cannot access NVMe-offloaded weights; choose cpu",
    ),
    Refusal(
        "zero_optimization.offload_optimizer.ratio",
        lambda value: value not in (None, "auto", 1, 1.0),
        "DeepSpeed would update the part that is not offloaded with its own AdamW, whatever the recipe's optimizer; "
        "remove it",
    ),
    Refusal(
        "zero_optimization.zenflow",
        _IS_SET,
        "ZenFlow updates parts of a parameter at different times, so norms and moments would mix several steps; "
        "remove it",
    ),
    Refusal(
        "zero_optimization.zero_hpz_partition_size",
        lambda value: value not in (None, "auto", 0, 1),
        "its groups ignore tensor parallelism and survive the engine; remove it",
    ),
    Refusal(
        "bf16.bf16_master_weights_and_grads",
        _IS_SET,
        "master weights and moments stay fp32 in every precision; remove it",
    ),
    Refusal(
        "fp16.fp16_master_weights_and_grads",
        _IS_SET,
        "master weights and moments stay fp32 in every precision; remove it",
    ),
    Refusal(
        "managed_gradient_accumulation",
        lambda value: value is False,
        "every micro-batch would be a step of its own; remove it",
    ),
    Refusal(
        "data_types.grad_accum_dtype",
        lambda value: value not in (None, "auto"),
        "it changes where DeepSpeed keeps the masters; gradients are summed in the precision of the weights; remove it",
    ),
)


def check_exactness(config: dict[str, Any], precision: str, path: str) -> None:
    """Raises UserError for a DeepSpeed file that would make an optimizer inexact; `path` names the file."""
    for refusal in REFUSALS:
        value = value_at(config, refusal.key)
        if refusal.is_refused(value):
            raise UserError(f"{path} sets {refusal.key} to {_shown(value)}: {refusal.reason}")
    if precision == "fp16" and value_at(config, "zero_optimization.stage") == 0:
        raise UserError(
            f"{path} is ZeRO stage 0, where DeepSpeed divides fp16 gradients by a loss scale without scaling the loss; "
            "choose ds_configs/zero1.json, or precision bf16"
        )


def _shown(value: Any) -> str:
    return "a section" if isinstance(value, dict) else str(value)
