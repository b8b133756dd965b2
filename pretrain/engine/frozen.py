"""A frozen model next to the one being trained: it runs in evaluation mode, and is neither trained nor saved.

Up to ZeRO 2 every rank holds its tensor-parallel part of the weights, as it does of the weights of the model in
training. Under ZeRO 3 the data-parallel ranks divide the blocks and the embeddings among them, as DeepSpeed divides
those of the other model, and gather each when it runs. The final norm and the heads, which are not run, stay whole.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model.bert import BertForPreTraining
from model.config import BertConfig
from model.parallel.layout import data_parallel_group
from model.parallel.tensor import TensorParallel
from pretrain.engine.build import build_model


def frozen_model(
    config: BertConfig, weight_of: Callable[[str], Tensor], tp: TensorParallel, dtype: torch.dtype, divided: bool
) -> BertForPreTraining:
    """`weight_of`: the logical weights. `divided`: among the data-parallel ranks, whose layout is installed. Collective
    if it is."""
    model = build_model(config, tp, dtype).eval().requires_grad_(False)
    model.load_weights(weight_of)
    if divided:
        for module in (model.embeddings, *model.blocks):
            Divided(module, data_parallel_group())
    return model


class Divided:
    """The weights of a frozen module, of which each rank of a group keeps a part between its runs."""

    def __init__(self, module: nn.Module, group: dist.ProcessGroup):
        self.group, self.parameters = group, list(module.parameters())
        self.shapes = [parameter.shape for parameter in self.parameters]
        flat = torch.cat([parameter.data.flatten() for parameter in self.parameters])
        padded = F.pad(flat, (0, -flat.numel() % group.size()))
        self.part = padded.chunk(group.size())[group.rank()].clone()
        self.release()
        module.register_forward_pre_hook(lambda module, inputs: self.gather())
        module.register_forward_hook(lambda module, inputs, output: self.release())

    def gather(self) -> None:
        whole = self.part.new_empty(self.part.numel() * self.group.size())
        dist.all_gather_into_tensor(whole, self.part, group=self.group)
        for parameter, shape in zip(self.parameters, self.shapes, strict=True):
            weight, whole = whole.split([shape.numel(), whole.numel() - shape.numel()])
            parameter.data = weight.view(shape)

    def release(self) -> None:
        for parameter in self.parameters:
            parameter.data = self.part.new_empty(0)
