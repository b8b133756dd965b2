"""A trained model, opened from its checkpoint in one process, with its vocabulary."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from growth.state import Record, TrainingState
from model.batch import Batch
from model.bert import BertForPreTraining
from model.errors import UserError
from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.checkpoint.files import readable
from pretrain.checkpoint.progress import Progress
from pretrain.checkpoint.vocabulary import other_vocabulary
from pretrain.data import Corpus, Vocabulary
from pretrain.data.objective import Objective
from pretrain.data.text.tokenizer import saved_tokenizer
from pretrain.recipe.schema import Data
from pretrain.training.evaluation import validation_rows


class Trained(NamedTuple):
    model: BertForPreTraining
    """In fp32 on the CPU, dropout off."""
    vocabulary: Vocabulary
    run: dict[str, Any]
    """What the checkpoint holds about its run: recipe, sequence length, progress."""
    records: dict[str, Record]
    """Weights and moments, by parameter."""


def open_trained(path: Path, corpus: str | None = None) -> Trained:
    """The model of a checkpoint, or of a run's latest. `corpus` defaults to the one it was trained on.

    Raises UserError when there is no such checkpoint, or the corpus has another vocabulary.
    """
    checkpoint = find_checkpoint(path)
    state, run = load_checkpoint(checkpoint)
    say_if_causal(run, checkpoint)
    return Trained(_model(state), open_vocabulary(run, corpus, checkpoint), run, state.records)


def say_if_causal(run: dict[str, Any], checkpoint: Path) -> None:
    """A line on stderr for a checkpoint whose last stage saw texts from left to right alone: it is used both ways."""
    if objective_of(run) == "clm":
        print(
            f"espalier: {checkpoint} was last trained with objective clm, each token seeing those before it; here all "
            "see each other, which it has not learned: train a stage with objective mlm after it",
            file=sys.stderr,
        )


def objective_of(run: dict[str, Any]) -> Objective:
    """Of the stage that saved a checkpoint."""
    return run.get("objective", "mlm")


def open_vocabulary(run: dict[str, Any], corpus: str | None, checkpoint: Path) -> Vocabulary:
    """A corpus's vocabulary, or the tokenizer in the checkpoint, if `grow` made it from a model of transformers."""
    tokenizer = saved_tokenizer(checkpoint)
    if corpus is None and "corpus" not in run and tokenizer is not None:
        return Vocabulary.read(tokenizer)
    return open_corpus(run, corpus, checkpoint)


def open_corpus(run: dict[str, Any], corpus: str | None, path: Path) -> Corpus:
    """The corpus a checkpoint was trained on, or another one of the same vocabulary."""
    if corpus is None and "corpus" not in run:
        raise UserError(f"{path} was trained on no corpus that is known here; name one of its vocabulary by --corpus")
    with readable(path):
        place = Path(corpus or run["corpus"])
    opened = Corpus.open(place)
    if fault := other_vocabulary(run, opened, path):
        raise fault
    return opened


def saved_rows(run: dict[str, Any], corpus: Corpus, num_rows: int) -> list[Batch]:
    """This rank's part of the validation rows of a checkpoint's run; every rank reads for itself."""
    data = Data.model_validate(run["recipe"]["data"]) if "recipe" in run else Data(corpus=str(corpus.path))
    progress = Progress.from_json(run["progress"]) if "progress" in run else Progress()
    how = num_rows, 64, dist.get_rank(), dist.get_world_size(), progress.position.draw
    return validation_rows(corpus, run["sequence"], data, *how, objective_of(run))


def _model(state: TrainingState) -> BertForPreTraining:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        model = BertForPreTraining(state.config)
    finally:
        torch.set_default_dtype(default)
    model.load_weights(lambda name: state.records[name].weight)
    return model.eval()
