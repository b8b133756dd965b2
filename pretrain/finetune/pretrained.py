"""The model to fine-tune: a folder that transformers opens, used for its tokenizer, its weights or only its shape."""

import contextlib
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.errors import UserError
from pretrain.finetune.pooling import MeanPooled
from pretrain.finetune.problem import Problem
from pretrain.interop.huggingface import exported_objective
from pretrain.interop.huggingface_import import opening
from pretrain.settings.hub import local_folder
from pretrain.use.export import export
from pretrain.use.trained import say_if_causal


@dataclass(frozen=True)
class Pretrained:
    """A model of transformers to start from, and how. Raises UserError if it cannot be opened."""

    folder: Path
    from_scratch: bool = False
    """Use random weights of the same shape, as a baseline."""
    pooling: str = "cls"
    """How to represent a sentence: the state of [CLS], or the `mean` of all states."""
    dropout: float | None = None
    """Dropout everywhere in the model; None keeps the folder's."""

    def config(self, **changes: Any) -> Any:
        from transformers import AutoConfig

        with opening(self.folder):
            config = AutoConfig.from_pretrained(self.folder, **changes, local_files_only=True)
        if self.dropout is not None:
            names = [
                name
                for name, value in vars(config).items()
                if ("dropout" in name or name.endswith("pdrop")) and not isinstance(value, bool)
            ]
            if not names:
                raise UserError(f"{self.folder}/config.json has no dropout to set to {self.dropout:g}; leave it out")
            for name in names:
                setattr(config, name, self.dropout)
        return config

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        config = self.config()
        with opening(self.folder):
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes one up if there is none
            raise UserError(f"{self.folder} has no tokenizer; put the model's tokenizer.json or vocab.txt there")
        if len(tokenizer) > config.vocab_size:
            raise UserError(
                f"{self.folder} has a tokenizer of {len(tokenizer):,} entries for a model of {config.vocab_size:,}; "
                "put the model's own there"
            )
        if tokenizer.pad_token_id is None:
            raise UserError(f"{self.folder} has a tokenizer without a padding token; name a model of BERT's kind")
        tokenizer.model_max_length = min(tokenizer.model_max_length, _num_positions(config))
        return tokenizer

    def model(self, problem: Problem, seed: int) -> torch.nn.Module:
        """The model with a head for the task. `seed` decides its weights and, with `from_scratch`, all others."""
        names = dict(enumerate(problem.labels))
        named = {"id2label": names, "label2id": {name: number for number, name in names.items()}} if names else {}
        config = self.config(num_labels=problem.num_outputs, **named)
        torch.manual_seed(seed)
        if self.pooling == "mean":
            return MeanPooled(self._load("AutoModel", config), problem.num_outputs)
        return self._load(problem.architecture, config)

    def _load(self, architecture: str, config: Any) -> torch.nn.Module:
        import transformers

        auto = getattr(transformers, architecture)
        if self.from_scratch:
            return auto.from_config(config)
        with opening(self.folder):
            return auto.from_pretrained(self.folder, config=config, local_files_only=True)


def _num_positions(config: Any) -> float:
    """The longest text that the model reads; some families have no limit."""
    num_positions = getattr(config, "max_position_embeddings", math.inf)
    counts_from_padding = any(family in config.model_type for family in ("roberta", "camembert", "mpnet", "longformer"))
    return num_positions - (config.pad_token_id + 1 if counts_from_padding else 0)


@contextlib.contextmanager
def model_folder(checkpoint: Path) -> Iterator[Path]:
    """A folder that transformers opens: `checkpoint` itself, the Hub's copy here, or a temporary export of it."""
    checkpoint = local_folder(checkpoint)
    if (checkpoint / "config.json").is_file():
        say_if_causal({"objective": exported_objective(checkpoint)}, checkpoint)
        yield checkpoint
    else:
        with tempfile.TemporaryDirectory() as exported:
            yield export(checkpoint, Path(exported))
