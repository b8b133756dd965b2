"""Reports the slimming coefficients (EarlyBERT) as they train: which heads and units the model could do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from model.bert import BertForPreTraining
from model.parameters import parameter_table
from pretrain.engine.zero import fragments
from pretrain.training.hooks.base import Hook, StepResult

if TYPE_CHECKING:
    from pretrain.training.trainer import Trainer

QUANTILES = torch.linspace(0, 1, 11)


class Coefficients(Hook):
    """On every rank. Event `coefficients` in every step: of every head, and for the many units of the feed-forward
    networks the 0%, 10%, ... 100% quantiles, each by layer."""

    def on_step(self, trainer: Trainer, result: StepResult) -> None:
        config = trainer.stage.config
        if config.slimming is None:
            return
        held = coefficients(trainer.engine)
        blocks = [config.block_of(layer) for layer in range(config.layers)]
        values = {
            "heads": [held[f"blocks.{block}.attention.coefficients"].tolist() for block in blocks],
            "ffn quantiles": [
                held[f"blocks.{block}.feedforward.coefficients"].quantile(QUANTILES).tolist() for block in blocks
            ],
        }
        event = {"event": "coefficients", "step": result.step, "stage": result.stage, "values": values}
        trainer.call("on_event", event)


def coefficients(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """Every coefficient, fp32 [units] by parameter name, on every rank. Collective."""
    model: BertForPreTraining = engine.module
    table = {name: spec for name, spec in parameter_table(model.config).items() if name.endswith(".coefficients")}
    local = fragments(engine)
    device = next(iter(local.values())).weight.device if local else torch.device("cpu")
    # Several ranks may hold the same elements: sums are divided by how many do.
    sums = {name: torch.zeros(2, spec.numel, device=device) for name, spec in table.items()}
    for name, spec in table.items():
        if name in local:
            start = model.tp.rank * (spec.numel // model.tp.size) + local[name].start
            sums[name][0, start : start + local[name].numel] = local[name].weight
            sums[name][1, start : start + local[name].numel] = 1
    packed = torch.cat(list(sums.values()), dim=1)
    dist.all_reduce(packed)
    whole = (packed[0] / packed[1]).cpu().split([spec.numel for spec in table.values()])
    return dict(zip(table, whole, strict=True))
