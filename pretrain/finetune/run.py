"""The verb `finetune`: one task, several seeds, one or several settings; median and spread of the official metrics."""

import contextlib
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from model.errors import UserError, nearest
from pretrain.export import export
from pretrain.finetune.fit import fit, predict
from pretrain.finetune.glue import Glue
from pretrain.finetune.pooling import MeanPooled
from pretrain.finetune.squad import Squad
from pretrain.finetune.tasks import TASKS, GlueTask, Settings

PREDICT_BATCH = 64
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
"""What BERT's kin and DistilBERT's call them in their configs."""
Scores = dict[str, float]


@dataclass(frozen=True)
class Result:
    settings: Settings
    scores: tuple[Scores, ...]
    """Of each seed."""
    seconds: float

    def values(self, metric: str) -> list[float]:
        return [scores[metric] for scores in self.scores]

    @property
    def score(self) -> float:
        """What the best settings are chosen by: the median of each metric, averaged over the metrics as GLUE does."""
        return fmean(median(self.values(metric)) for metric in self.scores[0])

    def to_json(self) -> dict[str, Any]:
        spread = {
            metric: {"median": median(values), "low": min(values), "high": max(values)}
            for metric in self.scores[0]
            for values in [self.values(metric)]
        }
        return {"settings": asdict(self.settings), **spread, "seeds": self.scores, "seconds": self.seconds}


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
    """Fine-tunes a checkpoint (of ours, or a folder of transformers) with all seeds of one settings after the other.

    `num_examples`: only so many of the training examples, the same for every seed. `from_scratch`: the same shape with
    random weights, for comparison. `precision`: bf16 or fp32; left out, bf16 where a GPU has it. `pooling`: what a
    sentence is told by, the state of [CLS] or the mean of all. `dropout`: the checkpoint's own when left out.
    """
    problem = open_task(task, data, max_length)
    if pooling == "mean" and isinstance(problem, Squad):
        raise UserError(f"pooling mean is for tasks of whole sentences, and {task} looks for a span; leave it out")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = precision == "bf16" if precision else device.type == "cuda" and torch.cuda.is_bf16_supported()
    with model_folder(checkpoint) as folder, _quiet():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        problem.max_length = min(problem.max_length, tokenizer.model_max_length)
        features = problem.training_features(tokenizer)
        if num_examples and num_examples < len(features):
            order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
            features = [features[row] for row in order[:num_examples].tolist()]
        for one in settings:
            start = time.perf_counter()
            scores = []
            for seed in seeds:
                model = _model(problem, folder, seed, from_scratch, pooling, dropout).to(device)
                fit(model, features, one, seed, tokenizer.pad_token_id, bf16)
                score = partial(predict, model, batch=PREDICT_BATCH, pad_id=tokenizer.pad_token_id)
                scores.append(problem.score(tokenizer, score))
            yield Result(one, tuple(scores), time.perf_counter() - start)


def open_task(name: str, data: Path | None, max_length: int | None) -> Glue | Squad:
    """The task's data. `max_length` left out: 128 tokens for sentences, 384 for SQuAD."""
    if name not in TASKS:
        raise UserError(f"task {name!r} is unknown{nearest(name, TASKS)}; choose one of {', '.join(TASKS)}")
    task = TASKS[name]
    if isinstance(task, GlueTask):
        return Glue.open(task, data, max_length or 128)
    return Squad.open(task, data, max_length or 384)


@contextlib.contextmanager
def model_folder(checkpoint: Path) -> Iterator[Path]:
    """A folder that transformers opens: `checkpoint` itself, or its export, which goes away again."""
    if (checkpoint / "config.json").is_file():
        yield checkpoint
    else:
        with tempfile.TemporaryDirectory() as exported:
            yield export(checkpoint, Path(exported))


def _model(
    problem: Glue | Squad, folder: Path, seed: int, from_scratch: bool, pooling: str, dropout: float | None
) -> torch.nn.Module:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, num_labels=problem.num_outputs, local_files_only=True)
    if dropout is not None:
        for name in DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, dropout)
    torch.manual_seed(seed)
    if pooling == "mean":
        return MeanPooled(_load("AutoModel", folder, config, from_scratch), problem.num_outputs)
    return _load(problem.architecture, folder, config, from_scratch)


def _load(architecture: str, folder: Path, config: Any, from_scratch: bool) -> torch.nn.Module:
    import transformers

    auto = getattr(transformers, architecture)
    if from_scratch:
        return auto.from_config(config)
    return auto.from_pretrained(folder, config=config, local_files_only=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers prints at every load: that a head is new, which fine-tuning is all about."""
    try:
        from transformers import logging
    except ModuleNotFoundError:
        raise UserError("finetune needs transformers; install it: pip install 'transformers>=4.50,<6'") from None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(verbosity)


def check_counts(**options: Sequence[int | None]) -> None:
    """Raises UserError for a number below 1; None is an option left out."""
    for option, counts in options.items():
        for count in counts:
            if count is not None and count < 1:
                raise UserError(f"--{option.replace('_', '-')} {count} is too few; give at least 1")


def check_rates(rates: Sequence[float]) -> None:
    """Raises UserError for a learning rate that is not a positive, finite number."""
    for rate in rates:
        if not 0 < rate < math.inf:
            raise UserError(f"--lr {rate:g} is no learning rate; give a finite number above 0, such as 3e-5")


def check_dropout(dropout: float | None) -> None:
    """Raises UserError for what is no probability; None is the option left out."""
    if dropout is not None and not 0 <= dropout < 1:
        raise UserError(f"--dropout {dropout:g} is no share of states to drop; give 0 or more, below 1, such as 0.1")


def check_output(path: Path) -> None:
    """Raises UserError where `write_results` could not write a file."""
    try:
        if path.is_dir():
            raise UserError(f"--output {path} is a folder; name a file, such as {path / 'results.json'}")
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if not above.is_dir():
            raise UserError(f"--output {path} lies under {above}, which is a file; name another")
        if path.exists():
            path.open("a").close()
        else:
            tempfile.TemporaryFile(dir=above).close()
    except OSError as fault:
        raise UserError(f"--output {path} cannot be written: {fault.strerror}; name another file") from None


def write_results(path: Path, about: dict[str, Any], results: Sequence[Result]) -> None:
    """Writes all results as JSON, the best settings first; `about`: what was fine-tuned, and on what."""
    ordered = sorted(results, key=lambda result: -result.score)
    text = json.dumps({**about, "results": [result.to_json() for result in ordered]}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", "utf-8")


def table(results: Sequence[Result], num_seeds: int) -> str:
    """Median (lowest to highest) of every metric, one line for each settings, the best one marked."""
    best = max(results, key=lambda result: result.score)
    lines = []
    for result in results:
        spreads = [
            f"{metric} {median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
            for metric in result.scores[0]
            for values in [result.values(metric)]
        ]
        mark = "  <- best" if result is best and len(results) > 1 else ""
        lines.append(f"{result.settings}: {', '.join(spreads)}{mark}")
    return "\n".join([*lines, f"median (lowest to highest) of {num_seeds} seeds on the dev set"])
