"""What every problem is to those who train a model on it."""

from typing import Any, Protocol

from torch import nn

from pretrain.finetune.fit import Features, Predict


class Problem(Protocol):
    """Examples to train on and to score on: `Sentences`, `Squad`, `Tags`."""

    architecture: str
    """The class of transformers that is trained."""
    labels: tuple[str, ...]
    """Names of the classes, if there are any."""
    num_outputs: int
    train: Any
    """A list; shorten it to train on less."""
    scored_on: str
    """What is scored, in words."""
    max_length: int
    """Tokens of an example."""

    def training_features(self, tokenizer: Any) -> list[Features]: ...

    def score(self, tokenizer: Any, predict: Predict) -> dict[str, float]: ...

    def finish(self, model: nn.Module) -> None:
        """Makes the trained model give what the labels mean, before it is saved."""
