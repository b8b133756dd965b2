"""A tag for every word: words to features, logits to scores. A word's tag is read at its first token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from pretrain.finetune.fit import IGNORED, Features, Predict
from pretrain.finetune.metrics import macro_f1
from pretrain.finetune.text import check_length

UNTOLD = ""
"""The tag predicted for a word that the model does not read: beyond the maximum length, or without a token."""


@dataclass(frozen=True)
class Tagged:
    words: tuple[str, ...]
    tags: tuple[str, ...]


class Tags:
    """Examples to train on and to score on."""

    architecture = "AutoModelForTokenClassification"

    def __init__(
        self, labels: tuple[str, ...], train: list[Tagged], dev: list[Tagged], scored_on: str, max_length: int
    ):
        self.labels, self.train, self.dev = labels, train, dev
        self.scored_on, self.max_length = scored_on, max_length
        self.num_outputs = len(labels)

    def training_features(self, tokenizer: Any) -> list[Features]:
        """Features of every training example. Raises UserError if not even one word fits."""
        num_special = tokenizer.num_special_tokens_to_add()
        check_length(self.max_length, num_special + 1, f"{num_special} special tokens")
        return self._features(tokenizer, self.train)

    def score(self, tokenizer: Any, predict: Predict) -> dict[str, float]:
        """F1 of entities where tags are B-, I- and O, else the mean F1 of tags; and the share of words that are right.

        `predict` gives logits [N, S, tags].
        """
        features = self._features(tokenizer, self.dev)
        (logits,) = predict(features)
        predicted = [
            self._tags(row.argmax(-1), one["places"], len(example.words))
            for one, row, example in zip(features, logits, self.dev, strict=True)
        ]
        true = [list(example.tags) for example in self.dev]
        flat_predicted, flat_true = (np.array([tag for row in rows for tag in row]) for rows in (predicted, true))
        is_entities = any(tag.startswith("B-") for tag in self.labels)
        f1 = entity_f1(predicted, true) if is_entities else macro_f1(flat_predicted, flat_true)
        return {"entity_f1" if is_entities else "macro_f1": f1, "accuracy": float(np.mean(flat_predicted == flat_true))}

    def finish(self, model: nn.Module) -> None:
        """Nothing is to be done before the model is saved."""

    def _tags(self, classes: np.ndarray, places: list[int | None], num_words: int) -> list[str]:
        tags = [UNTOLD] * num_words
        for place, word in enumerate(places):
            if word is not None:
                tags[word] = self.labels[classes[place]]
        return tags

    def _features(self, tokenizer: Any, examples: Sequence[Tagged]) -> list[Features]:
        number = {tag: place for place, tag in enumerate(self.labels)}
        encoded = tokenizer(
            [list(example.words) for example in examples],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
        )
        features = []
        for row, example in enumerate(examples):
            places = list(_first_tokens(encoded.word_ids(row)))
            labels = [IGNORED if word is None else number.get(example.tags[word], IGNORED) for word in places]
            inputs = {name: encoded[name][row] for name in tokenizer.model_input_names}
            features.append({**inputs, "labels": labels, "places": places})
        return features


def _first_tokens(words: Sequence[int | None]) -> Iterator[int | None]:
    """For each token the word that it begins, or None."""
    before = None
    for word in words:
        yield word if word is not None and word != before else None
        before = word


def entity_f1(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> float:
    """F1 of whole entities with their kinds (Tjong Kim Sang & De Meulder 2003), tags as B-KIND, I-KIND and O."""
    found, wanted = (
        {(row, *span) for row, tags in enumerate(side) for span in entities(tags)} for side in (predicted, true)
    )
    return 2 * len(found & wanted) / (len(found) + len(wanted)) if found or wanted else 1.0


def entities(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """First word, the word after the last, and kind of each entity. An I- that continues none begins one."""
    start, kind = 0, None
    for place, tag in enumerate([*tags, "O"]):
        mark, _, its_kind = tag.partition("-")
        if mark == "I" and its_kind == kind:
            continue
        if kind is not None:
            yield start, place, kind
        start, kind = place, its_kind if mark in ("B", "I") else None
