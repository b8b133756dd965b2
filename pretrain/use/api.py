"""A trained model in Python: scores and states for texts of your own, and the same model in another shape."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from growth.operators import shape_change
from growth.operators.base import Inputs
from growth.partial_shape import PartialShape
from growth.state import Record
from model.batch import Batch
from model.bert import BertForPreTraining
from model.config import BertConfig
from model.errors import UserError
from model.parameters import parameter_table
from pretrain.data import Vocabulary
from pretrain.launch.gpus import count_gpus
from pretrain.recipe.operators import AUTO, read_operators
from pretrain.use.fill import encode


class Output(NamedTuple):
    hidden: Tensor  # [B, S, H] of the last layer
    logits: Tensor  # [B, S, V] of every token, for the word that stands there


class Model(nn.Module):
    """BERT with its vocabulary, as `open_model` gives it: in fp32 on the CPU, dropout off until `train()`."""

    def __init__(self, config: BertConfig, weight_of: Callable[[str], Tensor], vocabulary: Vocabulary):
        super().__init__()
        self.bert = BertForPreTraining(config)
        self.bert.load_weights(weight_of)
        self.vocabulary = vocabulary
        self.eval()

    @property
    def config(self) -> BertConfig:
        return self.bert.config

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None, types: Tensor | None = None) -> Output:
        """ids [B, S] int64; attention_mask [B, S], 0 for padding (None: there is none); types [B, S] int64, the token
        types (None: all 0)."""
        config = self.config
        states = self.bert.states(self._batch(ids, attention_mask, types), {config.layers, config.words_from})
        logits = self.bert.mlm(states[config.words_from].flatten(0, 1), self.bert.embeddings.word.weight)
        return Output(states[config.layers], logits[:, : config.vocab_size].unflatten(0, ids.shape))

    def states(self, ids: Tensor, attention_mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """The hidden states of the last layer [B, S, H], of what `forward` takes."""
        return self.bert.encode(self._batch(ids, attention_mask, types))

    def _batch(self, ids: Tensor, attention_mask: Tensor | None, types: Tensor | None) -> Batch:
        segments = None if attention_mask is None else attention_mask.long()
        masked = torch.empty(0, dtype=torch.int64, device=ids.device)
        batch = Batch(ids, masked, masked, types=types, segments=segments)
        for part in self.bert.parts:
            batch = part.arrange(batch)
        return batch

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids [B, S] of each text, between [CLS] and [SEP], and the mask of attention; texts may hold [MASK].

        Raises UserError for a text longer than the model reads.
        """
        special, longest = self.vocabulary.special, self.config.max_positions
        rows = [[special.cls, *encode(self.vocabulary, text, 1), special.sep] for text in texts]
        length = max(map(len, rows))
        if length > longest:
            raise UserError(f"a text has {length - 2} tokens; this model reads {longest - 2} at most, shorten it")
        ids = torch.tensor([row + [special.pad] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return ids, mask

    def tokens(self, ids: Sequence[int]) -> list[str]:
        return [self.vocabulary.tokenizer.id_to_token(int(id)) or "" for id in ids]

    def grown(self, *operators: str | Mapping[str, Mapping[str, Any]], **shape: Any) -> Model:
        """The model in another shape, with weights of its own: `grown("stack", layers=8)`. Operators as a recipe's
        `grow` names them, in order; without any, those that `auto` chooses. Raises UserError where they do not lead to
        the shape."""
        named = [{operator: {}} if isinstance(operator, str) else operator for operator in operators]
        wanted = PartialShape(shape)
        chosen = read_operators(named or [{AUTO: {}}], self.config, wanted)
        change = shape_change(self.config, chosen, wanted, Inputs(self._record))
        return Model(change.target, lambda name: change.record(name, self._record).weight, self.vocabulary)

    def _record(self, name: str) -> Record:
        spec, weight = parameter_table(self.config)[name], self.bert.get_parameter(name).detach()
        rows = self.config.vocab_size if spec.axes[0].name == "vocabulary" else None  # the table is padded
        return Record.fresh(weight[:rows].reshape(spec.shape))


def open_model(path: str | Path, corpus: str | None = None) -> Model:
    """The model of a run's latest checkpoint, or of one that is named.

    `corpus`: one with its vocabulary; left out, the one that it was trained on. Raises UserError where there is no such
    checkpoint or corpus.
    """
    if count_gpus() == 0:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, imported below, would warn that there is no GPU
    from pretrain.use.trained import open_trained

    trained = open_trained(Path(path), corpus)
    return Model(trained.model.config, lambda name: trained.records[name].weight, trained.vocabulary)
