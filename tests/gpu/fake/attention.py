"""Attention as the GPU's fused operators define it, which the CPU has not: without dropout, in fp32.

Results that nobody reads but the GPU's own backward pass are left out at the end.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Any, scale: float | None) -> tuple[Tensor, Tensor]:
    """[..., S, d] each -> the context [..., S, d] and the logarithm of the sum of exponentials [..., S]."""
    scores = _scores(query, key, bias, scale)
    return scores.softmax(-1) @ value.float(), scores.logsumexp(-1)


def gradients(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Any, scale: float | None) -> tuple:
    """Of query, key and value."""
    probabilities, gradient = _scores(query, key, bias, scale).softmax(-1), gradient.float()
    of_probabilities = gradient @ value.float().mT
    of_scores = probabilities * (of_probabilities - (of_probabilities * probabilities).sum(-1, keepdim=True))
    of_scores = of_scores * _scale(query, scale)
    return of_scores @ key.float(), of_scores.mT @ query.float(), probabilities.mT @ gradient


def _scores(query: Tensor, key: Tensor, bias: Any, scale: float | None) -> Tensor:
    scores = query.float() @ key.float().mT * _scale(query, scale)
    return scores if bias is None else scores + bias.float()


def _scale(query: Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


# ---- scaled_dot_product_attention ----


def fused(query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, scale: Any = None, **_: Any) -> tuple:
    return attend(query, key, value, attn_bias, scale)[:1]


def fused_backward(
    query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, scale: Any = None, **rest: Any
) -> tuple:
    gradient = rest.get("grad_out", rest.get("grad_out_"))
    return gradients(gradient, query, key, value, attn_bias, scale)


# ---- torch.nn.attention.varlen ----


def runs(query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, **rest: Any) -> tuple:
    """[T, n, d], runs that see only themselves from `cu_seq_q[i]` to `cu_seq_q[i + 1]`."""
    context = torch.empty_like(query)
    for run, bias in _runs(cu_seq_q, **rest):
        of_heads = (x[run].transpose(0, 1) for x in (query, key, value))
        context[run] = attend(*of_heads, bias, rest.get("scale"))[0].transpose(0, 1).to(query.dtype)
    return (context,)


def runs_backward(grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, **rest: Any) -> tuple:
    results = tuple(map(torch.zeros_like, (query, key, value)))
    for run, bias in _runs(cu_seq_q, **rest):
        of_heads = (x[run].transpose(0, 1) for x in (grad_out, query, key, value))
        for result, found in zip(results, gradients(*of_heads, bias, rest.get("scale")), strict=True):
            result[run] = found.transpose(0, 1).to(query.dtype)
    return results


def _runs(starts: Tensor, window_size: Any = None, is_causal: bool = False, **_: Any) -> Iterator[tuple[slice, Tensor]]:
    """Each run, and what has to be added to its scores."""
    before, after = window_size or (-1, 0 if is_causal else -1)
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        place = torch.arange(end - start)
        distance = place - place[:, None]
        hidden = (distance > after) & (after >= 0) | (-distance > before) & (before >= 0)
        yield slice(start, end), torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)


ATTENTION: dict[str, Callable[..., tuple]] = {
    "aten::_scaled_dot_product_flash_attention": fused,
    "aten::_scaled_dot_product_flash_attention_backward": fused_backward,
    "aten::_scaled_dot_product_efficient_attention": fused,
    "aten::_scaled_dot_product_efficient_attention_backward": fused_backward,
    "torch_attn::_varlen_attn": runs,
    "torch_attn::_varlen_attn_backward": runs_backward,
}
