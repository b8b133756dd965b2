"""Whether a stage can be computed with `fp8: true`: a GPU multiplies only matrices of certain sides in FP8."""

from itertools import product
from math import prod

from growth.operators.prune import PruneNeurons
from model.errors import UserError
from model.parameter_spec import FP8_MULTIPLE
from model.parameters import parameter_table
from pretrain.recipe.run import ResolvedStage

KEYS = {"rank": "low_rank"}
"""Of the model, where an axis has another name."""


def check_fp8(stage: ResolvedStage) -> None:
    """Raises UserError naming the precision, or the axes that make a side of a matrix."""
    if stage.precision == "fp16":
        raise UserError("fp8 goes with precision bf16 or fp32: its scales are too large for fp16; choose bf16")
    _check_decided_widths(stage)
    matrices = (spec for spec in parameter_table(stage.config).values() if spec.is_layer_matrix)
    for spec, consumed in product(matrices, (True, False)):
        sizes = spec.local_shape(stage.tensor_parallel)
        of_axes = zip(spec.axes, sizes, strict=True)
        side = {axis: size for axis, size in of_axes if (axis.role == "consumed") == consumed}
        width = prod(side.values())
        if width % FP8_MULTIPLE:
            names = " * ".join(KEYS.get(axis.name, axis.name) for axis in side)
            on_rank = f" / tensor_parallel {stage.tensor_parallel}" * (width < prod(axis.size for axis in side))
            raise UserError(
                f"fp8 needs widths that are multiples of {FP8_MULTIPLE}: model.{names}{on_rank} is {width} in "
                f"{spec.name}; change it, or leave fp8 out"
            )


def _check_decided_widths(stage: ResolvedStage) -> None:
    """Those that an operator takes from the scores of the units, when the run is there."""
    decides = any(isinstance(operator, PruneNeurons) and operator.quota == "global" for operator in stage.grow)
    multiple = FP8_MULTIPLE * stage.tensor_parallel
    if decides and stage.config.ffn_multiple % multiple:
        raise UserError(
            f"fp8 needs widths that are multiples of {FP8_MULTIPLE} on each rank, and prune_neurons with quota: global "
            f"decides each layer's; set model.ffn_multiple to a multiple of {multiple}, or leave fp8 out"
        )
