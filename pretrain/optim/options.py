"""What an optimizer says of itself: its options in a recipe, and what follows from them. No torch until a run needs it.

Every optimizer is one subclass, in its own file or folder, listed in `pretrain/optim/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from model.errors import UserError
from pretrain.launch.gpus import count_gpus
from pretrain.optim.groups import GroupRules
from pretrain.settings.values import Number, Rate, Section

if TYPE_CHECKING:
    from torch.optim import Optimizer as TorchOptimizer

    from growth.carry import Averages
    from growth.moments import MomentRule
    from model.config import BertConfig
    from model.parameter_spec import ParameterSpec
    from model.shape import Shape

MakeOptimizer = Callable[[list[dict[str, Any]]], "TorchOptimizer"]
"""Makes an optimizer over parameter groups (`params`, `weight_decay`, ...: see groups.py).

Its state must be Adam's, `exp_avg`, `exp_avg_sq` and `step`: this is what checkpoints keep and growth transforms. Of
the moments a group names those that it keeps.
"""


@dataclass(frozen=True)
class StepWork:
    """What the matrix products of an optimizer's step ask of a rank."""

    products: tuple[tuple[int, int, int, int], ...] = ()
    """[m, k, n, times] of the rank that computes most: products [m, k] x [k, n]."""
    exchanged: tuple[int, ...] = ()
    """Elements of each all-to-all over all ranks: what the rank that has most of them sends, or receives."""
    scratch_numel: int = 0
    """Elements that a rank needs during a step only: the rank that needs most."""


class OptimizerOptions(Section):
    """The options that every optimizer has."""

    name: ClassVar[str]
    """Name of the optimizer."""

    steps_elementwise: ClassVar[bool] = False
    """Whether some elements of a tensor may have a step count and a learning rate of their own (new_units.py)."""

    lr: Annotated[Number, Field(gt=0)]
    """Peak learning rate."""
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    """Decay rates of the two moments, per step."""
    eps: Annotated[Number, Field(gt=0, lt=1)] = 1e-6
    """Added to the square root of the second moment."""
    weight_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.01
    """Decoupled weight decay."""
    decayed: Literal["matrices", "all"] = "matrices"
    """Which parameters decay. `matrices` leaves out biases and LayerNorms."""
    grad_clip: Annotated[Number, Field(ge=0)] = 1.0
    """Clip the gradient to this global norm. 0 turns clipping off."""
    clip_bucket_mb: Annotated[Number, Field(gt=0)] | None = None
    """Instead, let every data-parallel rank clip the gradient of its own rows to that norm before the gradients are
    summed: in B buckets of this size in MB (fp32), each to grad_clip / sqrt(B). For ZeRO 1 and 2 ("Breaking MLPerf
    Training", Kim et al. 2024)."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Learning rate of a layer, as a fraction of the rate of the layer above. Below 1 for fine-tuning."""
    compile: bool = True
    """Compile the step on a CPU, if there is a C++ compiler and the model is large enough to gain from it. AdamW,
    whose kernel is fused already, and Muon ignore this."""

    def check(self) -> None:
        """Raises UserError for options that contradict each other."""
        if self.clip_bucket_mb is not None and not self.grad_clip:
            raise UserError("clip_bucket_mb clips to grad_clip, which is 0; set grad_clip above 0, or leave it out")

    def make(self, groups: list[dict[str, Any]]) -> TorchOptimizer:
        """The optimizer, over parameter groups. Its learning rate is set before every step."""
        raise NotImplementedError

    @property
    def group_rules(self) -> GroupRules:
        return GroupRules(weight_decay=self.weight_decay, decay_all=self.decayed == "all", layer_decay=self.layer_decay)

    @property
    def moment_rule(self) -> MomentRule:
        """How its moments follow a change of shape: by default, as moments of plain gradients."""
        from growth.moments import of_gradients

        return of_gradients

    def decay_rates(self, spec: ParameterSpec) -> tuple[float, ...]:
        """Per step, of each moment that it keeps of a parameter, exp_avg first."""
        return self.betas

    @property
    def averages(self) -> Averages:
        """What its moments are means of: decides what carries over to another optimizer."""
        from growth.carry import Averages

        return Averages(self.moment_rule, self.decay_rates)

    def step_flops(self, shape: Shape) -> int:
        """Of the matrix products in one step, over all ranks. Nothing else counts, as in `pretrain/cost/flops.py`."""
        return 0

    def step_work(self, config: BertConfig, tensor_parallel: int, data_parallel: int, zero_stage: int) -> StepWork:
        """The same of one rank, and what these products need there."""
        return StepWork()

    def notes(self) -> list[str]:
        """What a user should know about this optimizer on this machine, for `plan`."""
        return []


class LayerwiseOptions(OptimizerOptions):
    """Options of the optimizers that scale each parameter's step by norms of the whole parameter."""

    adapted: Literal["matrices", "all"] = "matrices"
    """LAMB and LANS: which parameters get a trust ratio. The others take Adam's step."""
    bias_correction: bool = True
    """LAMB and LANS: correct the moments for their start from zero."""

    @property
    def group_rules(self) -> GroupRules:
        return replace(super().group_rules, adapt_all=self.adapted == "all")

    @property
    def shared_arguments(self) -> dict[str, Any]:
        """The arguments of LayerwiseOptimizer."""
        return dict(betas=self.betas, eps=self.eps, bias_correction=self.bias_correction, compiled=self.compile)

    def notes(self) -> list[str]:
        return compiler_notes(self)


def compiler_notes(options: OptimizerOptions) -> list[str]:
    """For an optimizer whose step is compiled on a CPU."""
    from pretrain.optim.passes import can_compile

    if count_gpus() or not options.compile or can_compile():
        return []
    return [f"no C++ compiler found: without one, the step of {options.name} takes about twice as long on a CPU"]
