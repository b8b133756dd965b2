"""Fine-tuning computes as training does: fast fp32 products, bf16 where it is asked for, and few waits for a GPU."""

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
        self.in_bf16: list[bool] = []

    def forward(self, input_ids, labels=None, **_):
        self.precisions.append(torch.get_float32_matmul_precision())
        self.in_bf16.append(torch.is_autocast_enabled("cpu"))
        logits = self.output(input_ids).mean(1)
        return SimpleNamespace(logits=logits, loss=logits.sum())


def test_products_are_fast_while_it_trains_and_predicts(monkeypatch):
    monkeypatch.setattr(fast_fp32, "error_with", lambda precision: 1e-6)
    model = Watcher()
    fit(model, FEATURES, Settings(lr=1e-3, batch=1, epochs=1), seed=0, pad_id=0, bf16=False)
    predict(model, FEATURES, batch=1, pad_id=0)
    assert model.precisions == ["medium", "medium"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_it_predicts_in_the_precision_it_trains_in_and_fetches_a_batch_at_a_time(monkeypatch):
    model, fetched = Watcher(), []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: fetched.append(tensor.shape) or cpu(tensor))
    (logits,) = predict(model, FEATURES * 5, batch=4, pad_id=0, bf16=True)
    assert model.in_bf16 == [True, True]
    assert fetched == [(4, 2), (1, 2)]
    assert logits.shape == (5, 2)
