"""Fine-tunes on one task, with one or several combinations of settings and several seeds each."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from model.errors import UserError, nearest
from pretrain.engine.distributed import computes_on_gpu, device
from pretrain.finetune.fit import Diverged, Features, fit, predict
from pretrain.finetune.glue import open_glue
from pretrain.finetune.own.examples import Source
from pretrain.finetune.own.open import OWN_TASKS
from pretrain.finetune.pretrained import Pretrained, model_folder
from pretrain.finetune.problem import Problem
from pretrain.finetune.progress import Lines
from pretrain.finetune.results import Result
from pretrain.finetune.saved import save as save_model
from pretrain.finetune.sentences import Sentences
from pretrain.finetune.squad import Squad
from pretrain.finetune.tasks import TASKS, GlueTask, Grid, Settings, suited

PREDICT_BATCH = 64
LONGEST_OWN = 512
"""Tokens of an example of one's own table."""


def finetune(
    checkpoint: Path,
    task: str,
    settings: Sequence[Settings] | Grid,
    seeds: Sequence[int],
    data: Path | None = None,
    max_length: int | None = None,
    num_examples: int | None = None,
    from_scratch: bool = False,
    precision: str | None = None,
    pooling: str = "cls",
    dropout: float | None = None,
    own: Source | None = None,
    save: Path | None = None,
) -> Iterator[Result]:
    """Fine-tunes a checkpoint (ours, or a folder of transformers): all seeds of one combination, then the next.

    A grid among `settings` may leave something open; that is then suited to model and data.
    `num_examples`: train on this many examples, the same for every seed. `precision`: bf16 or fp32; by default bf16 if
    the GPU has it. `from_scratch`, `pooling`, `dropout`: as in `Pretrained`. `own`: the table of one of `OWN_TASKS`,
    instead of `data`. `save`: a folder for the model with the best score of all.
    """
    problem = open_own(task, own, max_length) if own else open_task(task, data, max_length)
    if pooling == "mean" and not isinstance(problem, Sentences):
        raise UserError(f"pooling mean works for tasks on whole sentences, but {task} reads tokens; omit --pooling")
    if pooling == "mean" and save:
        raise UserError("pooling mean has no model in transformers to save; leave out --save, or --pooling")
    bf16 = precision == "bf16" if precision else computes_on_gpu() and torch.cuda.is_bf16_supported()
    with model_folder(checkpoint) as folder, _quiet():
        pretrained = Pretrained(folder, from_scratch, pooling, dropout)
        tokenizer = pretrained.tokenizer()
        problem.max_length = min(problem.max_length, tokenizer.model_max_length)
        if num_examples and num_examples < len(problem.train):
            order = torch.randperm(len(problem.train), generator=torch.Generator().manual_seed(0))
            problem.train = [problem.train[row] for row in order[:num_examples].tolist()]
        features = problem.training_features(tokenizer)
        if own:
            _say_what_is_cut(features, problem.max_length)
        if isinstance(settings, Grid):
            settings = suited(pretrained.config().hidden_size, len(features), settings).settings()
        best = -math.inf
        for one in settings:
            start = time.perf_counter()
            scores: list[dict[str, float] | None] = []
            for seed in seeds:
                model = pretrained.model(problem, seed).to(device())
                fit(model, features, one, seed, tokenizer.pad_token_id, bf16, Lines(seed))
                score = partial(predict, model, batch=PREDICT_BATCH, pad_id=tokenizer.pad_token_id, bf16=bf16)
                try:
                    scores.append(scored := problem.score(tokenizer, score))
                except Diverged:
                    scores.append(None)
                    continue
                if save and fmean(scored.values()) > best:
                    best = fmean(scored.values())
                    save_model(save, model, tokenizer, problem)
            yield Result(one, tuple(scores), time.perf_counter() - start, problem.scored_on)


def _say_what_is_cut(features: Sequence[Features], max_length: int) -> None:
    if long := sum(len(one["input_ids"]) >= max_length for one in features):
        print(
            f"espalier: {long:,} of {len(features):,} examples fill {max_length} tokens; what is beyond is not read",
            file=sys.stderr,
        )


def open_own(name: str, source: Source, max_length: int | None) -> Problem:
    """A table of one's own. `max_length` None: as long as the model reads, at most 512 tokens."""
    return OWN_TASKS[name](source, max_length or LONGEST_OWN)


def open_task(name: str, data: Path | None, max_length: int | None) -> Sentences | Squad:
    """The task's data. `max_length` None: 128 tokens for sentences, 384 for SQuAD."""
    if name not in TASKS:
        known = [*OWN_TASKS, *TASKS]
        raise UserError(f"task {name!r} is unknown{nearest(name, known)}; choose one of {', '.join(known)}")
    task = TASKS[name]
    if isinstance(task, GlueTask):
        return open_glue(task, data, max_length or 128)
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
