"""The slimming coefficients (EarlyBERT) of an engine, whole, on every rank."""

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from model.bert import BertForPreTraining
from model.parameters import parameter_table
from pretrain.engine.distributed import device
from pretrain.engine.zero import fragments


def coefficients(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """Every coefficient, fp32 [units] by parameter name, on every rank. Collective."""
    model: BertForPreTraining = engine.module
    table = {name: spec for name, spec in parameter_table(model.config).items() if name.endswith(".coefficients")}
    local = fragments(engine)
    # Several ranks may hold the same elements, so each sum is divided by the number of ranks that contribute.
    sums = {name: torch.zeros(2, spec.numel) for name, spec in table.items()}
    for name, spec in table.items():
        if name in local:
            start = model.tp.rank * (spec.numel // model.tp.size) + local[name].start
            sums[name][0, start : start + local[name].numel] = local[name].weight
            sums[name][1, start : start + local[name].numel] = 1
    packed = torch.cat(list(sums.values()), dim=1).to(device())
    dist.all_reduce(packed)
    whole = (packed[0] / packed[1]).cpu().split([spec.numel for spec in table.values()])
    return dict(zip(table, whole, strict=True))
