"""Cross entropy over a vocabulary that is cut across tensor-parallel ranks, in any precision."""

import torch
import torch.distributed as dist
from torch import Tensor

from model.parallel import TensorParallel


def vocab_parallel_cross_entropy(
    logits: Tensor, targets: Tensor, vocab_size: int, tp: TensorParallel
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each target, and whether it was the most likely entry.

    logits [M, this rank's columns of the padded vocabulary], targets [M] of the whole vocabulary
    -> (loss [M], correct [M] bool). Columns beyond `vocab_size` are padding and take no probability. 16-bit logits are
    computed in fp32, others in their own precision.
    """
    return _VocabParallelCrossEntropy.apply(logits, targets, vocab_size, tp)


class _VocabParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, vocab_size: int, tp: TensorParallel) -> tuple[Tensor, Tensor]:
        num_columns = logits.shape[1]
        first_column = tp.rank * num_columns
        scores = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits.clone()
        scores[:, max(0, vocab_size - first_column) :] = -torch.inf

        highest = scores.amax(dim=1) if num_columns else scores.new_full((len(scores),), -torch.inf)
        _all_reduce(highest, dist.ReduceOp.MAX, tp)
        scores -= highest.unsqueeze(1)
        local = targets - first_column
        here = (local >= 0) & (local < num_columns)
        columns = torch.where(here, local, 0)
        target_score = scores.gather(1, columns.unsqueeze(1)).squeeze(1).masked_fill(~here, 0.0)
        exponentials = scores.exp_()
        total = exponentials.sum(dim=1)
        sums = torch.stack([target_score, total])
        _all_reduce(sums, dist.ReduceOp.SUM, tp)
        target_score, total = sums

        ctx.save_for_backward(exponentials.div_(total.unsqueeze(1)), columns, here)
        ctx.dtype = logits.dtype
        correct = target_score == 0  # scores are relative to the highest
        ctx.mark_non_differentiable(correct)
        return total.log() - target_score, correct

    @staticmethod
    def backward(ctx, gradient: Tensor, _correct: None) -> tuple[Tensor, None, None, None]:
        probabilities, columns, here = ctx.saved_tensors
        result = probabilities.mul_(gradient.unsqueeze(1))  # in place: a second backward pass is refused
        result.scatter_add_(1, columns.unsqueeze(1), torch.where(here, -gradient, 0.0).unsqueeze(1))
        return result.to(ctx.dtype), None, None, None


def _all_reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType, tp: TensorParallel) -> None:
    if tp.size > 1:
        dist.all_reduce(tensor, operation, group=tp.group)
