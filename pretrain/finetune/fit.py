"""Fine-tunes one model with AdamW over features of different lengths, padded batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pretrain.engine.fast_fp32 import fast_fp32
from pretrain.finetune.tasks import Settings
from pretrain.optim.adamw import adamw
from pretrain.optim.groups import matrices_decay, set_learning_rate
from pretrain.recipe.schedule import Phase

Features = dict[str, Any]
"""One example: token lists by their names in transformers, and labels."""
Predict = Callable[[Sequence[Features]], tuple[np.ndarray, ...]]
"""Features to the model's logits, in their order: [N, outputs], [N, length, outputs] of tokens, or [N, length] each for
starts and ends."""

AfterStep = Callable[[int, int, Tensor], None]
"""Takes the number of steps that are done, that of all steps, and the loss of the last one."""

PADDED = {"input_ids", "token_type_ids", "attention_mask"}
LABELS = ("labels", "start_positions", "end_positions")
IGNORED = -100
"""The label of a token that is not learned from, in transformers."""
BETAS, EPS = (0.9, 0.999), 1e-6
"""Devlin et al. 2018."""
POOL = 50
"""Rows are sorted by length within pools of this many batches: little padding, and the order stays random."""


class Diverged(Exception):
    """The model's outputs are not finite."""


@fast_fp32()
def fit(
    model: nn.Module,
    features: Sequence[Features],
    settings: Settings,
    seed: int,
    pad_id: int,
    bf16: bool,
    after_step: AfterStep = lambda step, num_steps, loss: None,
) -> None:
    """Trains `model` in place. `seed` decides data order and dropout."""
    device = next(model.parameters()).device
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    num_steps = settings.epochs * -(-len(features) // settings.batch)
    learning_rate = Phase(0, num_steps, settings.lr, settings.warmup * num_steps)
    optimizer = adamw(BETAS, EPS)(matrices_decay(model, settings.weight_decay))
    step = 0
    model.train()
    for _ in range(settings.epochs):
        for rows in shuffled_batches([len(one["input_ids"]) for one in features], settings.batch, generator):
            set_learning_rate(optimizer, learning_rate(step))
            batch = collate([features[row] for row in rows], pad_id)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            after_step(step, num_steps, loss.detach())


@fast_fp32()
def predict(
    model: nn.Module, features: Sequence[Features], batch: int, pad_id: int, bf16: bool = False
) -> tuple[np.ndarray, ...]:
    """The model's logits for all features, in their order. Raises Diverged if one is not finite."""
    device = next(model.parameters()).device
    model.eval()
    by_length = np.argsort([len(one["input_ids"]) for one in features], kind="stable")
    longest = max(len(one["input_ids"]) for one in features)
    logits: list[tuple[np.ndarray, ...]] = [()] * len(features)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for start in range(0, len(features), batch):
            rows = by_length[start : start + batch]
            inputs = collate([features[row] for row in rows], pad_id)
            outputs = model(**{name: tensor.to(device) for name, tensor in inputs.items() if name not in LABELS})
            is_span = hasattr(outputs, "start_logits")
            of_tokens = is_span or outputs.logits.dim() == 3
            found = (outputs.start_logits, outputs.end_logits) if is_span else (outputs.logits,)
            values = [value.float().cpu() for value in found]  # whole: a copy of every row would wait for the device
            if not all(value.isfinite().all() for value in values):
                raise Diverged
            for place, row in enumerate(rows):
                logits[row] = tuple(_widened(value[place], longest if of_tokens else 0) for value in values)
    return tuple(np.stack(kind) for kind in zip(*logits, strict=True))


def _widened(values: Tensor, length: int) -> np.ndarray:
    """Logits of positions padded to the longest row; positions beyond a row get -inf."""
    array = values.numpy()
    beyond = [(0, max(length - len(array), 0)), *[(0, 0)] * (array.ndim - 1)]
    return np.pad(array, beyond, constant_values=-np.inf)


def shuffled_batches(lengths: Sequence[int], size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Every row once, in random order, rows of nearly equal length together."""
    order = generator.permutation(len(lengths))
    known = np.asarray(lengths)
    batches: list[np.ndarray] = []
    for start in range(0, len(order), POOL * size):
        pool = order[start : start + POOL * size]
        pool = pool[np.argsort(-known[pool], kind="stable")]
        batches += [pool[first : first + size] for first in range(0, len(pool), size)]
    for index in generator.permutation(len(batches)):
        yield batches[index]


def collate(features: Sequence[Features], pad_id: int) -> dict[str, Tensor]:
    """Token lists padded to the longest, [B, S]; labels [B], or [B, S] where tokens have them."""
    length = max(len(one["input_ids"]) for one in features)
    batch = {}
    for name in features[0]:
        values = [one[name] for one in features]
        if name in PADDED:
            filler = pad_id if name == "input_ids" else 0
            values = [row + [filler] * (length - len(row)) for row in values]
        elif name in LABELS and isinstance(values[0], list):
            values = [row + [IGNORED] * (length - len(row)) for row in values]
        if name in PADDED or name in LABELS:
            batch[name] = torch.tensor(values)
    return batch
