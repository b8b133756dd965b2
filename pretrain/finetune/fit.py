"""Fine-tunes one model: some epochs of AdamW over features of different lengths, padded batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pretrain.finetune.tasks import Settings

Features = dict[str, Any]
"""One example: token lists by their names in transformers, and labels."""
Predict = Callable[[Sequence[Features]], tuple[np.ndarray, ...]]
"""Features to the model's logits, in their order; [N, outputs], or [N, length] each for starts and ends."""

PADDED = {"input_ids", "token_type_ids", "attention_mask"}
LABELS = ("labels", "start_positions", "end_positions")
POOL = 50
"""Batches are sorted by length within pools of so many, so that little is padding and the order stays random."""


def fit(model: nn.Module, features: Sequence[Features], settings: Settings, seed: int, pad_id: int, bf16: bool) -> None:
    """Trains `model` in place. The order of the data and dropout follow from `seed`."""
    device = next(model.parameters()).device
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    num_steps = settings.epochs * -(-len(features) // settings.batch)
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings.weight_decay), lr=settings.lr, eps=1e-6)
    step = 0
    model.train()
    for _ in range(settings.epochs):
        for rows in shuffled_batches([len(one["input_ids"]) for one in features], settings.batch, generator):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * learning_rate_factor(step, num_steps, settings.warmup)
            batch = collate([features[row] for row in rows], pad_id)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1


def predict(model: nn.Module, features: Sequence[Features], batch: int, pad_id: int) -> tuple[np.ndarray, ...]:
    """The model's logits for all features, in their order."""
    device = next(model.parameters()).device
    model.eval()
    by_length = np.argsort([len(one["input_ids"]) for one in features], kind="stable")
    longest = max(len(one["input_ids"]) for one in features)
    logits: list[tuple[np.ndarray, ...]] = [()] * len(features)
    with torch.no_grad():
        for start in range(0, len(features), batch):
            rows = by_length[start : start + batch]
            inputs = collate([features[row] for row in rows], pad_id)
            outputs = model(**{name: tensor.to(device) for name, tensor in inputs.items() if name not in LABELS})
            is_span = hasattr(outputs, "start_logits")
            values = (outputs.start_logits, outputs.end_logits) if is_span else (outputs.logits,)
            for place, row in enumerate(rows):
                logits[row] = tuple(_widened(value[place], longest if is_span else 0) for value in values)
    return tuple(np.stack(kind) for kind in zip(*logits, strict=True))


def _widened(values: Tensor, length: int) -> np.ndarray:
    """Logits of positions, up to the longest row of all: what lies beyond a row is impossible."""
    array = values.float().cpu().numpy()
    return np.pad(array, (0, max(length - len(array), 0)), constant_values=-np.inf)


def learning_rate_factor(step: int, num_steps: int, warmup: float) -> float:
    """Linear from 0 to 1 over the first share `warmup` of the steps, then linear to 0."""
    num_warmup = warmup * num_steps
    return min((step + 1) / num_warmup if num_warmup else 1.0, (num_steps - step) / max(num_steps - num_warmup, 1), 1.0)


def shuffled_batches(lengths: Sequence[int], size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Every row once, in random order, rows of nearly equal length together."""
    order = generator.permutation(len(lengths))
    lengths = np.asarray(lengths)
    batches = []
    for start in range(0, len(order), POOL * size):
        pool = order[start : start + POOL * size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        batches += [pool[first : first + size] for first in range(0, len(pool), size)]
    for index in generator.permutation(len(batches)):
        yield batches[index]


def collate(features: Sequence[Features], pad_id: int) -> dict[str, Tensor]:
    """Token lists padded to the longest, [B, S]; labels [B]."""
    length = max(len(one["input_ids"]) for one in features)
    batch = {}
    for name in features[0]:
        values = [one[name] for one in features]
        if name in PADDED:
            filler = pad_id if name == "input_ids" else 0
            values = [row + [filler] * (length - len(row)) for row in values]
        if name in PADDED or name in LABELS:
            batch[name] = torch.tensor(values)
    return batch


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay on matrices, none on biases and LayerNorms (Devlin et al. 2018)."""
    parameters = list(model.parameters())
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
