"""Parameter groups: what the optimizer may do to each parameter, from the parameter table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from growth.state import MOMENTS
from model.config import BertConfig
from model.parameters import ParameterSpec, parameter_table

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class GroupRules:
    weight_decay: float = 0.01
    decay_all: bool = False
    """Weight decay on biases and LayerNorms too."""
    adapt_all: bool = False
    """Trust ratios (LAMB, LANS) on biases and LayerNorms too."""
    layer_decay: float = 1.0
    """The learning rate of a layer as a part of that of the layer above it (fine-tuning)."""
    orthogonalizes: bool = False
    """Muon: the matrices of the layers form groups of their own, with one moment."""
    other_lr: float = 1.0
    """There, the learning rate of everything else as a part of that of the matrices."""
    other_decay: float | None = None
    """And its weight decay, if that is another."""

    def moments_of(self, spec: ParameterSpec) -> tuple[str, ...]:
        """The names of the moments that are kept of a parameter."""
        return MOMENTS[:1] if self.orthogonalizes and spec.is_layer_matrix else MOMENTS

    def lr_scale(self, config: BertConfig, spec: ParameterSpec) -> float:
        is_other = self.orthogonalizes and not spec.is_layer_matrix
        return self.layer_decay ** layers_above(config, spec) * (self.other_lr if is_other else 1.0)

    def decay_of(self, spec: ParameterSpec) -> float:
        if not (spec.decay or self.decay_all):
            return 0.0
        is_other = self.orthogonalizes and not spec.is_layer_matrix
        return self.other_decay if is_other and self.other_decay is not None else self.weight_decay

    def group_of(self, config: BertConfig, spec: ParameterSpec) -> tuple[bool, float, bool]:
        """What the parameters of a group have in common, besides the steps that they have taken: whether they decay,
        their part of the learning rate, whether they are orthogonalized."""
        return spec.decay, self.lr_scale(config, spec), self.orthogonalizes and spec.is_layer_matrix


def parameter_groups(model: nn.Module, steps: Mapping[str, int], rules: GroupRules) -> list[dict[str, Any]]:
    """Trained parameters grouped by (decay, steps taken, part of the learning rate, moments kept), in model order.

    Frozen parameters are in no group: the optimizer never touches them.
    """
    config = model.config
    assert isinstance(config, BertConfig)
    table = parameter_table(config)
    groups: dict[tuple, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spec, step = table[name], steps[name]
        key = decay, lr_scale, orthogonalize = rules.group_of(config, spec)
        group = groups.setdefault(
            (*key, step),
            {
                "name": f"{'decay' if decay else 'no_decay'}@{step}"
                + (f"x{lr_scale:.4g}" if lr_scale != 1 else "")
                + ("-orthogonalized" if orthogonalize else ""),
                "params": [],
                "parameter_names": [],
                "initial_step": step,
                "lr": 0.0,  # set before every step; DeepSpeed may step once while it builds
                "lr_scale": lr_scale,
                "weight_decay": rules.decay_of(spec),
                "adapt": decay or rules.adapt_all,
                "moments": rules.moments_of(spec),
                "orthogonalize": orthogonalize,
            },
        )
        group["params"].append(parameter)
        group["parameter_names"].append(name)
    return list(groups.values())


def matrices_decay(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The groups of a model that is in no parameter table, such as one of transformers: what the table says of ours."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in model.parameters():
        (matrices if parameter.ndim > 1 else vectors).append(parameter)
    return [
        {"params": matrices, "lr_scale": 1.0, "weight_decay": weight_decay},
        {"params": vectors, "lr_scale": 1.0, "weight_decay": 0.0},
    ]


def layers_above(config: BertConfig, spec: ParameterSpec) -> int:
    """How many layers lie between a parameter and the loss, the heads included; a shared block counts as its last."""
    if spec.block is not None:
        return config.layers - max(config.layers_of(spec.block))
    return config.layers + 1 if spec.name.startswith("embeddings.") else 0


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
