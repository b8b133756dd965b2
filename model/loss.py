"""Cross entropy over a vocabulary that is cut across tensor-parallel ranks, in any precision."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from model.parallel.tensor import TensorParallel

CHUNK = {"cpu": 2**18, "cuda": 2**24}
"""Scores that are turned into probabilities at a time: they fit a CPU's cache, and take little of a GPU's memory."""

Own = tuple[Tensor, Tensor]
"""Of this rank's columns: the highest score, and the probability among them of its word. [M] each."""


class Passes(NamedTuple):
    """The two passes over the scores [M, columns], of which the first `num_words` columns are words."""

    own: Callable[[Tensor, int], Own]
    gradient: Callable[[Tensor, int, Own, Tensor, Tensor, Tensor], Tensor]
    """(logits, num_words, own, scale [M], columns [M], at_target [M]) -> probabilities among this rank's columns times
    `scale`, plus `at_target` at `columns`. [M, columns]"""


def vocab_parallel_cross_entropy(
    logits: Tensor, targets: Tensor, vocab_size: int, tp: TensorParallel, passes: Passes | None = None
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each target, and whether it was the most likely entry.

    logits [M, this rank's columns of the padded vocabulary], targets [M] of the whole vocabulary
    -> (loss [M], correct [M] bool). Columns beyond `vocab_size` are padding and take no probability. 16-bit logits are
    computed in fp32, others in their own precision. passes: by default in chunks.
    """
    return _VocabParallelCrossEntropy.apply(logits, targets, vocab_size, tp, passes or IN_CHUNKS)


class _VocabParallelCrossEntropy(torch.autograd.Function):
    """Keeps the logits and recomputes their probabilities in the backward pass. On a CPU this is faster than writing
    them all to memory and reading them back, and it takes half the memory."""

    @staticmethod
    def forward(
        ctx, logits: Tensor, targets: Tensor, vocab_size: int, tp: TensorParallel, passes: Passes
    ) -> tuple[Tensor, Tensor]:
        num_columns = logits.shape[1]
        first_column = tp.rank * num_columns
        num_words = max(0, vocab_size - first_column)
        own_highest, own_likeliest = passes.own(logits, num_words)

        highest = _all_reduce(own_highest.clone(), dist.ReduceOp.MAX, tp)
        local = targets - first_column
        here = (local >= 0) & (local < num_columns)
        columns = torch.where(here, local, 0)
        target_score = torch.where(here, logits.gather(1, columns.unsqueeze(1)).squeeze(1) - highest, 0.0)
        own_total = (own_highest - highest).exp() / own_likeliest  # exponentials of this rank's scores - highest
        target_score, total = _all_reduce(torch.stack([target_score, own_total]), dist.ReduceOp.SUM, tp)

        ctx.save_for_backward(logits, own_highest, own_likeliest, own_total / total, columns, here)
        ctx.num_words, ctx.passes = num_words, passes
        correct = target_score == 0  # scores are relative to the highest
        ctx.mark_non_differentiable(correct)
        return total.log() - target_score, correct

    @staticmethod
    def backward(ctx, gradient: Tensor, _correct: None) -> tuple[Tensor, None, None, None, None]:
        logits, own_highest, own_likeliest, share, columns, here = ctx.saved_tensors
        scale = gradient * share  # from this rank's probabilities to those of all words
        at_target = torch.where(here, -gradient, 0.0)
        own = own_highest, own_likeliest
        result = ctx.passes.gradient(logits, ctx.num_words, own, scale, columns, at_target)
        return result, None, None, None, None


# ---- in chunks ----


def own_in_chunks(logits: Tensor, num_words: int) -> Own:
    highest, likeliest = logits.new_empty(2, len(logits), dtype=_precision(logits))
    for rows, scores, probabilities in _softmax(logits, num_words):
        torch.amax(scores, 1, out=highest[rows])
        torch.amax(probabilities, 1, out=likeliest[rows])
    return highest, likeliest


def gradient_in_chunks(
    logits: Tensor, num_words: int, own: Own, scale: Tensor, columns: Tensor, at_target: Tensor
) -> Tensor:
    scale, columns, at_target = scale.unsqueeze(1), columns.unsqueeze(1), at_target.unsqueeze(1)
    result = torch.empty_like(logits)
    for rows, _, probabilities in _softmax(logits, num_words):
        result[rows] = probabilities.mul_(scale[rows]).scatter_add_(1, columns[rows], at_target[rows])
    return result


IN_CHUNKS = Passes(own_in_chunks, gradient_in_chunks)


def _softmax(logits: Tensor, num_words: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows of logits, their scores and probabilities over this rank's columns, in buffers for one chunk after another.

    The columns from `num_words` on are padding.
    """
    num_columns = logits.shape[1]
    num_rows = min(max(1, CHUNK[logits.device.type] // num_columns), len(logits))
    score_buffer, probability_buffer = logits.new_empty(2, num_rows, num_columns, dtype=_precision(logits))
    for start in range(0, len(logits), num_rows or 1):
        rows = slice(start, start + num_rows)
        scores = score_buffer[: len(logits[rows])].copy_(logits[rows])
        scores[:, num_words:] = torch.finfo(scores.dtype).min  # not -inf: a rank may have nothing but padding
        yield rows, scores, torch.softmax(scores, 1, out=probability_buffer[: len(scores)])


# ---- as a whole, for torch's compiler: it makes one kernel of each, which reads a score once ----


def own_as_a_whole(logits: Tensor, num_words: int) -> Own:
    scores = _scores(logits, num_words)
    highest = scores.amax(1)
    return highest, 1 / (scores - highest.unsqueeze(1)).exp().sum(1)


def gradient_as_a_whole(
    logits: Tensor, num_words: int, own: Own, scale: Tensor, columns: Tensor, at_target: Tensor
) -> Tensor:
    highest, likeliest = own
    unscaled = (_scores(logits, num_words) - highest.unsqueeze(1)).exp()
    at_column = torch.arange(logits.shape[1], device=logits.device) == columns.unsqueeze(1)
    found = unscaled * (likeliest * scale).unsqueeze(1) + torch.where(at_column, at_target.unsqueeze(1), 0.0)
    return found.to(logits.dtype)


AS_A_WHOLE = Passes(own_as_a_whole, gradient_as_a_whole)


def _scores(logits: Tensor, num_words: int) -> Tensor:
    scores = logits.to(_precision(logits))
    is_word = torch.arange(logits.shape[1], device=logits.device) < num_words
    return torch.where(is_word, scores, torch.finfo(scores.dtype).min)


def _precision(logits: Tensor) -> torch.dtype:
    return torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else logits.dtype


def _all_reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType, tp: TensorParallel) -> Tensor:
    if tp.size > 1:
        dist.all_reduce(tensor, operation, group=tp.group)
    return tensor
