"""Represents a sentence by the mean of its tokens' states instead of the state of [CLS]."""

from typing import Any

from torch import Tensor, nn

INITIAL_STD = 0.02
DROPOUT = 0.1
"""Dropout of an encoder whose config names it differently from BERT and DistilBERT."""


class MeanPooled(nn.Module):
    """An encoder of transformers, the mean of its last states (Reimers & Gurevych 2019), and one new linear layer.

    What it needs of the encoder is what predicting masked words has trained; [CLS] is one token among the others.
    """

    def __init__(self, encoder: nn.Module, num_outputs: int) -> None:
        """`num_outputs`: 1 is a regression."""
        super().__init__()
        self.encoder = encoder
        config: Any = encoder.config
        self.dropout = nn.Dropout(getattr(config, "hidden_dropout_prob", getattr(config, "dropout", DROPOUT)))
        self.output = nn.Linear(config.hidden_size, num_outputs)
        nn.init.normal_(self.output.weight, std=INITIAL_STD)
        nn.init.zeros_(self.output.bias)

    def forward(self, attention_mask: Tensor, labels: Tensor | None = None, **inputs: Tensor) -> Any:
        """`attention_mask` and the encoder's other inputs [B, S], `labels` [B]; gives `logits` [B, outputs], `loss`."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        states = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state  # [B, S, H]
        is_token = attention_mask.unsqueeze(-1).to(states.dtype)  # [B, S, 1]
        mean = (states * is_token).sum(1) / is_token.sum(1)  # [B, H]
        logits = self.output(self.dropout(mean))
        loss = None if labels is None else self._loss(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.output.out_features == 1:
            return nn.functional.mse_loss(logits.squeeze(-1), labels.float())
        return nn.functional.cross_entropy(logits, labels)
