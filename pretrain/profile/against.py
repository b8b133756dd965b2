"""Our training step against transformers' BertForPreTraining: the same model, sequences and masks, alternately.

Every figure is a ratio of real tokens per second within one round. A round runs each contender once, so that whatever
else the machine does affects all of them alike. The table has medians over the rounds, with their range.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from growth.state import fresh_state
from model.batch import Batch
from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from pretrain.cost.flops import training_flops
from pretrain.data.packing import pack
from pretrain.engine.build import PRECISIONS, EngineSettings, build_model
from pretrain.engine.compilation import compiles
from pretrain.engine.distributed import device
from pretrain.engine.move import start_engine
from pretrain.engine.zero import basic_optimizer
from pretrain.optim.adamw import adamw
from pretrain.profile.peak import matmul_flops_per_second, synchronize
from pretrain.recipe.schema import Precision

LR = 1e-4
MASK_RATE = 0.15
PAD, CLS, MASK, FIRST_WORD = 0, 2, 4, 5


@dataclass(frozen=True)
class Row:
    """One line of the table; `median`, `low` and `high` are over the rounds."""

    row: str
    target: float | None
    """None: the row has none."""
    median: float
    low: float
    high: float

    @classmethod
    def over(cls, row: str, target: float | None, values: list[float]) -> "Row":
        return cls(row, target, median(values), min(values), max(values))


@dataclass(frozen=True)
class Workload:
    """Sequences of random ids. Wikipedia-like lengths have a mean of about 60% of the longest."""

    config: BertConfig
    sequence: int
    lengths: tuple[int, ...]

    @classmethod
    def full(cls, config: BertConfig, sequence: int, num_sequences: int) -> "Workload":
        return cls(config, sequence, (sequence,) * num_sequences)

    @classmethod
    def varied(cls, config: BertConfig, sequence: int, num_sequences: int) -> "Workload":
        share = torch.distributions.Beta(1.5, 1.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            lengths = (share.sample((num_sequences,)) * sequence).round().long().clamp(8, sequence)
        return cls(config, sequence, tuple(lengths.tolist()))

    def sequences(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The true ids of each sequence and which of its positions are masked (never [CLS])."""
        generator = torch.Generator().manual_seed(1)
        ids, masked = [], []
        for length in self.lengths:
            tokens = torch.randint(FIRST_WORD, self.config.vocab_size, (length,), generator=generator)
            tokens[0] = CLS
            count = max(1, round(MASK_RATE * length))
            ids.append(tokens)
            masked.append(torch.sort(1 + torch.randperm(length - 1, generator=generator)[:count])[0])
        return ids, masked


class Contender:
    """Takes one training step over all sequences of a workload at each call."""

    def __init__(self, workload: Workload, step: Callable[[], None]):
        self.workload, self.step = workload, step

    def tokens_per_second(self) -> float:
        synchronize(device())
        start = perf_counter()
        self.step()
        synchronize(device())
        return sum(self.workload.lengths) / (perf_counter() - start)


def ours(workload: Workload, precision: Precision, num_micro_batches: int = 1, packed: bool = True) -> Contender:
    """Rows, packed or padded, through a DeepSpeed engine: weights of this precision, fp32 masters, ZeRO-1, clipping.

    Compiled on a GPU, as its rival is.
    """
    batches = packed_batches(workload, num_micro_batches, packed)
    settings = EngineSettings(
        layout=ParallelLayout(1, 1),
        micro_batch=1,  # only DeepSpeed's own book-keeping reads it
        accumulation=len(batches),
        precision=precision,
        make_optimizer=adamw((0.9, 0.98), 1e-6),
        compile=compiles("auto", device()),
        deepspeed={"zero_optimization": {"stage": 1}},
    )
    engine = start_engine(fresh_state(workload.config, seed=0), settings)
    num_masked, num_pairs = sum(len(b.masked_ids) for b in batches), len(workload.lengths)

    def step() -> None:
        for group in basic_optimizer(engine).param_groups:
            group["lr"] = LR
        for batch in batches:
            output = engine(batch, len(batches) / num_masked, len(batches) / num_pairs)
            engine.backward(output.loss)
            engine.step()

    return Contender(workload, step)


def bare_loop(workload: Workload, precision: Precision, num_micro_batches: int = 1) -> Contender:
    """The same model and batches without DeepSpeed: fp32 masters, torch's fused AdamW and clipping."""
    batches = packed_batches(workload, num_micro_batches)
    model = build_model(workload.config, ParallelLayout(1, 1).install(), PRECISIONS[precision])
    state = fresh_state(workload.config, seed=0)
    model.load_weights(lambda name: state.records[name].weight)
    weights = list(model.parameters())
    masters = [weight.detach().float().requires_grad_() for weight in weights]
    optimizer = torch.optim.AdamW(masters, lr=LR, fused=True)
    num_masked, num_pairs = sum(len(b.masked_ids) for b in batches), len(workload.lengths)

    def step() -> None:
        for batch in batches:
            model(batch, 1 / num_masked, 1 / num_pairs).loss.backward()
        for weight, master in zip(weights, masters, strict=True):
            assert weight.grad is not None
            master.grad, weight.grad = weight.grad.float(), None
        nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        with torch.no_grad():
            for weight, master in zip(weights, masters, strict=True):
                weight.copy_(master)

    return Contender(workload, step)


def hugging_face(
    workload: Workload, precision: Precision, *, compiled: bool, fused: bool, micro_batches: int = 1
) -> Contender:
    """transformers' BertForPreTraining on padded rows, in fp32 or under autocast.

    `compiled` needs a C++ compiler and is skipped without one.
    """
    from transformers import BertConfig as TheirConfig
    from transformers import BertForPreTraining as TheirModel

    config: Any = workload.config  # plain: heads and ffn are numbers
    model_class: Any = TheirModel
    model = model_class(
        TheirConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.ffn,
            max_position_embeddings=config.max_positions,
            hidden_dropout_prob=config.hidden_dropout,
            attention_probs_dropout_prob=config.attention_dropout,
        )
    ).to(device())
    return transformers_step(workload, model, padded_rows(workload), precision, compiled, fused, micro_batches)


def transformers_step(
    workload: Workload,
    model: nn.Module,
    rows: dict[str, torch.Tensor],
    precision: Precision,
    compiled: bool,
    fused: bool,
    micro_batches: int,
) -> Contender:
    """A model of theirs on these rows, as `hugging_face` says."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=fused)
    batches = [
        dict(zip(rows, parts, strict=True))
        for parts in zip(*(tensor.chunk(micro_batches) for tensor in rows.values()), strict=True)
    ]
    call: Any = torch.compile(model) if compiled and can_compile() else model

    def step() -> None:
        for batch in batches:
            with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16"):
                loss = call(**batch).loss / len(batches)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return Contender(workload, step)


def can_compile() -> bool:
    """Whether there is what torch.compile needs here."""
    return device().type == "cuda" or shutil.which("g++") is not None


def packed_batches(workload: Workload, num_micro_batches: int, packed: bool = True) -> list[Batch]:
    """The workload's sequences in rows, several to a row where they fit, or one to a row."""
    ids, masked = workload.sequences()
    row_of = torch.arange(len(ids))
    if packed:
        row_of = torch.from_numpy(pack(np.array(workload.lengths), workload.sequence))
    num_rows, width = int(row_of.max()) + 1, workload.sequence
    tokens = torch.full((num_rows, width), PAD)
    positions, segments = torch.zeros_like(tokens), torch.zeros_like(tokens)
    used, count = [0] * num_rows, [0] * num_rows
    targets: list[list[tuple[int, int]]] = [[] for _ in range(num_rows)]
    starts: list[list[int]] = [[] for _ in range(num_rows)]
    for sequence, where, row in zip(ids, masked, row_of.tolist(), strict=True):
        span = slice(used[row], used[row] + len(sequence))
        count[row] += 1
        tokens[row, span], positions[row, span], segments[row, span] = sequence, torch.arange(len(sequence)), count[row]
        starts[row].append(used[row])
        targets[row] += [(used[row] + place, int(sequence[place])) for place in where.tolist()]
        used[row] += len(sequence)
    whole = all(number == 1 and length == width for number, length in zip(count, used, strict=True))
    batches = []
    for rows in torch.arange(num_rows).chunk(num_micro_batches):
        flat = [
            (index * width + place, word) for index, row in enumerate(rows.tolist()) for place, word in targets[row]
        ]
        places, words = (torch.tensor(column) for column in zip(*flat, strict=True))
        cls = torch.tensor([index * width + at for index, row in enumerate(rows.tolist()) for at in starts[row]])
        batch = Batch(
            ids=tokens[rows].flatten().scatter(0, places, MASK).view(len(rows), width),
            masked_positions=places,
            masked_ids=words,
            types=torch.zeros_like(tokens[rows]),
            positions=None if whole else positions[rows],
            segments=None if whole else segments[rows],
            sentence_positions=cls if workload.config.sentence_head else None,
            sentence_labels=cls % 2 if workload.config.sentence_head else None,
        )
        batches.append(batch.to(device()))
    return batches


def padded_rows(workload: Workload) -> dict[str, torch.Tensor]:
    """The same sequences as transformers takes them: one to a row, padded, labels -100 where nothing is masked."""
    ids, masked = workload.sequences()
    shape = (len(ids), workload.sequence)
    rows = {"input_ids": torch.full(shape, PAD), "attention_mask": torch.zeros(shape, dtype=torch.long)}
    labels = torch.full(shape, -100)
    for row, (sequence, where) in enumerate(zip(ids, masked, strict=True)):
        rows["input_ids"][row, : len(sequence)] = sequence.scatter(0, where, MASK)
        rows["attention_mask"][row, : len(sequence)] = 1
        labels[row, where] = sequence[where]
    rows |= {"token_type_ids": torch.zeros(shape, dtype=torch.long), "labels": labels}
    rows["next_sentence_label"] = torch.arange(len(ids)) % 2
    return {name: tensor.to(device()) for name, tensor in rows.items()}


def useful_flops(workload: Workload) -> float:
    """Of one step: every sequence at its own length, the head at masked positions only."""
    _, masked = workload.sequences()
    return sum(
        training_flops(workload.config, 1, length, len(where))
        for length, where in zip(workload.lengths, masked, strict=True)
    )


def compare(contenders: dict[str, Contender], precision: Precision, num_rounds: int) -> list[dict[str, float]]:
    """Tokens per second of every contender in every round, after one of warmup; and the matmul limit in `precision`."""
    rounds = []
    for index in range(num_rounds + 1):
        rates = {name: contender.tokens_per_second() for name, contender in contenders.items()}
        rates["matmul"] = matmul_flops_per_second(device(), PRECISIONS[precision], seconds=0.15)
        if index:
            rounds.append(rates)
    return rounds
