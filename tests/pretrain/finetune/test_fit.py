"""Fine-tuning takes the fast fp32 products that training takes."""

from types import SimpleNamespace

import torch
from torch import nn

from pretrain.engine import fast_fp32
from pretrain.finetune.fit import fit, predict
from pretrain.finetune.tasks import Settings

FEATURES = [{"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1], "labels": 1}]


class Watcher(nn.Module):
    """Notes with which precision it is called."""

    def __init__(self):
        super().__init__()
        self.output = nn.Embedding(9, 2)
        self.precisions: list[str] = []

    def forward(self, input_ids, labels=None, **_):
        self.precisions.append(torch.get_float32_matmul_precision())
        logits = self.output(input_ids).mean(1)
        return SimpleNamespace(logits=logits, loss=logits.sum())


def test_products_are_fast_while_it_trains_and_predicts(monkeypatch):
    monkeypatch.setattr(fast_fp32, "error_with", lambda precision: 1e-6)
    model = Watcher()
    fit(model, FEATURES, Settings(lr=1e-3, batch=1, epochs=1), seed=0, pad_id=0, bf16=False)
    predict(model, FEATURES, batch=1, pad_id=0)
    assert model.precisions == ["medium", "medium"]
    assert torch.get_float32_matmul_precision() == "highest"
