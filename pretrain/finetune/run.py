"""Fine-tunes on one task, with one or several combinations of settings and several seeds each."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from model.errors import UserError, nearest
from pretrain.finetune.fit import Diverged, fit, predict
from pretrain.finetune.glue import Glue
from pretrain.finetune.pretrained import Pretrained, model_folder
from pretrain.finetune.results import Result
from pretrain.finetune.squad import Squad
from pretrain.finetune.tasks import TASKS, GlueTask, Settings

PREDICT_BATCH = 64


def finetune(
    checkpoint: Path,
    task: str,
    settings: Sequence[Settings],
    seeds: Sequence[int],
    data: Path | None = None,
    max_length: int | None = None,
    num_examples: int | None = None,
    from_scratch: bool = False,
    precision: str | None = None,
    pooling: str = "cls",
    dropout: float | None = None,
) -> Iterator[Result]:
    """Fine-tunes a checkpoint (ours, or a folder of transformers): all seeds of one combination, then the next.

    `num_examples`: train on this many examples, the same for every seed. `precision`: bf16 or fp32; by default bf16 if
    the GPU has it. `from_scratch`, `pooling`, `dropout`: as in `Pretrained`.
    """
    problem = open_task(task, data, max_length)
    if pooling == "mean" and isinstance(problem, Squad):
        raise UserError(f"pooling mean works for tasks on whole sentences, but {task} looks for a span; omit --pooling")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = precision == "bf16" if precision else device.type == "cuda" and torch.cuda.is_bf16_supported()
    with model_folder(checkpoint) as folder, _quiet():
        pretrained = Pretrained(folder, from_scratch, pooling, dropout)
        tokenizer = pretrained.tokenizer()
        problem.max_length = min(problem.max_length, tokenizer.model_max_length)
        if num_examples and num_examples < len(problem.train):
            order = torch.randperm(len(problem.train), generator=torch.Generator().manual_seed(0))
            problem.train = [problem.train[row] for row in order[:num_examples].tolist()]
        features = problem.training_features(tokenizer)
        for one in settings:
            start = time.perf_counter()
            scores: list[dict[str, float] | None] = []
            for seed in seeds:
                model = pretrained.model(problem, seed).to(device)
                fit(model, features, one, seed, tokenizer.pad_token_id, bf16)
                score = partial(predict, model, batch=PREDICT_BATCH, pad_id=tokenizer.pad_token_id)
                try:
                    scores.append(problem.score(tokenizer, score))
                except Diverged:
                    scores.append(None)
            yield Result(one, tuple(scores), time.perf_counter() - start, problem.scored_on)


def open_task(name: str, data: Path | None, max_length: int | None) -> Glue | Squad:
    """The task's data. `max_length` None: 128 tokens for sentences, 384 for SQuAD."""
    if name not in TASKS:
        raise UserError(f"task {name!r} is unknown{nearest(name, TASKS)}; choose one of {', '.join(TASKS)}")
    task = TASKS[name]
    if isinstance(task, GlueTask):
        return Glue.open(task, data, max_length or 128)
    return Squad.open(task, data, max_length or 384)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the warning of transformers that the head is new, which it always is here."""
    try:
        from transformers import logging
    except ModuleNotFoundError:
        raise UserError("finetune needs transformers; install it: pip install 'transformers>=4.50,<6'") from None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def check_rates(rates: Sequence[float]) -> None:
    """Raises UserError for a learning rate that is not a positive, finite number."""
    for rate in rates:
        if not 0 < rate < math.inf:
            raise UserError(f"--lr {rate:g} is not a learning rate; give a finite number above 0, such as 3e-5")


def check_dropout(dropout: float | None) -> None:
    """Raises UserError unless it is a probability below 1. None means that the option was not given."""
    if dropout is not None and not 0 <= dropout < 1:
        raise UserError(f"--dropout {dropout:g} is not a probability below 1; give 0 or more, below 1, such as 0.1")
