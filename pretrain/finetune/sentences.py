"""Problems of one or two sentences, classification or regression: examples to features, logits to scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pretrain.finetune.fit import Features, Predict
from pretrain.finetune.metrics import Metric
from pretrain.finetune.text import check_length


@dataclass(frozen=True)
class Example:
    sentences: tuple[str, ...]
    label: int | float


Dev = dict[str, list[Example]]
"""The examples to score on, by the name of their file."""


@dataclass(frozen=True)
class Scale:
    """A regression predicts (value - mean) / deviation: a new layer begins near 0, whatever the unit."""

    mean: float = 0.0
    deviation: float = 1.0

    def into(self, model: nn.Module) -> None:
        """Makes the model's last layer give values in their own unit."""
        last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
        assert last.out_features == 1
        with torch.no_grad():
            last.weight.mul_(self.deviation)
            last.bias.mul_(self.deviation).add_(self.mean)


class Sentences:
    """Examples to train on and to score on."""

    architecture = "AutoModelForSequenceClassification"

    def __init__(
        self,
        labels: tuple[str, ...],
        metrics: Mapping[str, Metric],
        train: list[Example],
        dev: Dev,
        scored_on: str,
        max_length: int,
        scale: Scale | None = None,
    ):
        """`labels`: names of the classes, none for a regression. `scored_on`: what `dev` contains, in words."""
        self.labels, self.metrics, self.train, self.dev = labels, metrics, train, dev
        self.scored_on, self.max_length, self.scale = scored_on, max_length, scale
        self.num_outputs = len(labels) or 1

    def training_features(self, tokenizer: Any) -> list[Features]:
        """Features of every training example. Raises UserError if a sentence would have to lose all its tokens."""
        num_sentences = len(self.train[0].sentences)
        num_special = tokenizer.num_special_tokens_to_add(pair=num_sentences == 2)
        check_length(self.max_length, num_special + num_sentences, f"{num_special} special tokens")
        features = self._features(tokenizer, self.train)
        if self.scale:
            for one in features:
                one["labels"] = (one["labels"] - self.scale.mean) / self.scale.deviation
        return features

    def score(self, tokenizer: Any, predict: Predict) -> dict[str, float]:
        """Every metric on every dev file, logits [N, outputs] by `predict`."""
        scores: dict[str, float] = {}
        for name, examples in self.dev.items():
            (logits,) = predict(self._features(tokenizer, examples))
            true = np.array([example.label for example in examples])
            predicted = logits.argmax(-1) if self.labels else logits[:, 0]
            if self.scale:
                predicted = predicted * self.scale.deviation + self.scale.mean
            suffix = name.removeprefix("dev")
            scores |= {f"{metric}{suffix}": score(predicted, true) for metric, score in self.metrics.items()}
        return scores

    def finish(self, model: nn.Module) -> None:
        """Makes the trained model give what the labels mean, before it is saved."""
        if self.scale:
            self.scale.into(model)

    def _features(self, tokenizer: Any, examples: Sequence[Example]) -> list[Features]:
        columns = zip(*(example.sentences for example in examples), strict=True)
        encoded = tokenizer(*map(list, columns), truncation=True, max_length=self.max_length)
        return [
            {**{key: values[row] for key, values in encoded.items()}, "labels": example.label}
            for row, example in enumerate(examples)
        ]
