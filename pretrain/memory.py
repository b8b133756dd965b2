"""Bytes of training state on each rank: what ZeRO, tensor parallelism and precision make of the parameter table."""

from dataclasses import dataclass
from math import prod

from model.config import BertConfig
from model.parameters import ParameterSpec, parameter_table

FP32_BYTES = 4


@dataclass(frozen=True)
class StateBytes:
    """Bytes on one rank; `host` counts what offload keeps in CPU memory. Activations and buffers are not in it."""

    weights: int
    gradients: int
    optimizer: int
    host: int = 0

    @property
    def device(self) -> int:
        return self.weights + self.gradients + self.optimizer


def num_parameters(config: BertConfig) -> int:
    """Of the whole model, without vocabulary padding; a shared block counts once."""
    return sum(spec.numel for spec in parameter_table(config).values())


def parameters_per_tensor_rank(config: BertConfig, tensor_parallel: int, trained_only: bool = False) -> int:
    return sum(
        prod(spec.padded_shape) // _cuts(spec, tensor_parallel)
        for spec in parameter_table(config).values()
        if spec.trainable or not trained_only
    )


def _cuts(spec: ParameterSpec, tensor_parallel: int) -> int:
    return 1 if spec.tensor_parallel_axis is None else tensor_parallel


def state_bytes(
    config: BertConfig,
    zero_stage: int,
    precision: str,
    tensor_parallel: int,
    data_parallel: int,
    offload_optimizer: bool = False,
) -> StateBytes:
    """Weights and gradients in the training precision; two fp32 moments, and fp32 masters when the weights are 16-bit.

    ZeRO 1 divides the optimizer over the data-parallel ranks, ZeRO 2 the gradients too, ZeRO 3 the weights as well.
    Frozen parameters have neither gradients nor moments.
    """
    count = parameters_per_tensor_rank(config, tensor_parallel)
    trained = parameters_per_tensor_rank(config, tensor_parallel, trained_only=True)
    element = FP32_BYTES if precision == "fp32" else 2
    copies = 2 if precision == "fp32" else 3

    def share(count: int, from_stage: int) -> int:
        return -(-count // data_parallel) if zero_stage >= from_stage else count

    optimizer = copies * FP32_BYTES * share(trained, from_stage=1)
    return StateBytes(
        weights=element * share(count, from_stage=3),
        gradients=element * share(trained, from_stage=2),
        optimizer=0 if offload_optimizer else optimizer,
        host=optimizer if offload_optimizer else 0,
    )
