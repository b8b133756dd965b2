"""Our training step against that of transformers' ModernBertForMaskedLM, which has no unpadding since transformers 5.

Theirs: padded rows, the fastest of sdpa and eager attention, each compiled too where that works, predictions at masked
tokens only. Ours: packed rows, and padded ones, so that the share of packing is seen. A small shape with all parts of
ModernBERT, in rows of 512 tokens and windows of 128.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch

from model.config import MODERNBERT, BertConfig
from pretrain.engine.distributed import device, process_group
from pretrain.engine.fast_fp32 import fast_fp32
from pretrain.interop.huggingface import export_config
from pretrain.profile.against import (
    Contender,
    Row,
    Workload,
    can_compile,
    compare,
    ours,
    padded_rows,
    transformers_step,
)
from pretrain.profile.table import show
from pretrain.recipe.precision import of_this_machine
from pretrain.recipe.schema import Precision

SEQUENCE, NUM_SEQUENCES = 512, 16
SHAPE = BertConfig(layers=6, hidden=256, heads=4, ffn=384, vocab_size=8192, **MODERNBERT)

ATTENTIONS = ("sdpa", "eager")
"""Of theirs."""

Rates = list[dict[str, float]]
"""Tokens per second by contender, round by round."""


def profile_against_modernbert(num_rounds: int, json_file: Path | None) -> None:
    """Measures every row, prints the table and writes it as JSON."""
    torch.set_num_threads(1)  # of a CPU: as ranks have, one to a core
    precision = of_this_machine()
    print(f"all in {precision}", flush=True)
    with process_group(), fast_fp32() if precision == "fp32" else nullcontext():
        rows = rows_against_modernbert(num_rounds, precision)
    show(rows, json_file)


def rows_against_modernbert(
    num_rounds: int,
    precision: Precision,
    config: BertConfig = SHAPE,
    sequence: int = SEQUENCE,
    num_sequences: int = NUM_SEQUENCES,
) -> list[Row]:
    """A step reads some sequences in micro-batches of 8 rows, or in one where they are packed."""
    micro_batches = max(1, num_sequences // 8)
    varied = Workload.varied(config, sequence, num_sequences)
    packed, padded = ours(varied, precision), ours(varied, precision, micro_batches, packed=False)
    rates = measured("varied lengths", {"packed": packed, "padded": padded}, varied, precision, num_rounds)
    rows = [
        _against_fastest("varied lengths, packed, against ModernBERT's fastest", 2.5, rates, "packed"),
        _against_fastest("varied lengths, both padded", None, rates, "padded"),
        Row.over("varied lengths, packed against padded", None, [each["packed"] / each["padded"] for each in rates]),
    ]
    full = Workload.full(config, sequence, num_sequences)
    rates = measured("full rows", {"full": ours(full, precision, micro_batches)}, full, precision, num_rounds)
    return [*rows, _against_fastest(f"full rows of {sequence}, against ModernBERT's fastest", 1.5, rates, "full")]


def measured(
    what: str, own: Mapping[str, Contender], workload: Workload, precision: Precision, num_rounds: int
) -> Rates:
    """Ours and theirs in turn; prints the median of each."""
    rates = compare({**own, **dict(theirs(workload, precision))}, precision, num_rounds)
    for name in (name for name in rates[0] if name != "matmul"):
        print(f"{what}, {name}: {median(each[name] for each in rates):,.0f} tokens/s", flush=True)
    return rates


def theirs(workload: Workload, precision: Precision) -> Iterator[tuple[str, Contender]]:
    """By what they are made with: every way that works here."""
    for attention in ATTENTIONS:
        yield attention, modernbert(workload, precision, attention, compiled=False)
        if not can_compile():
            continue
        print(f"compiling theirs with {attention} attention, which takes minutes on a CPU", flush=True)
        compiled = modernbert(workload, precision, attention, compiled=True)
        try:
            compiled.step()
        except Exception as fault:  # whatever the compiler stumbles over
            print(f"{attention}, compiled: does not work here ({type(fault).__name__})", flush=True)
        else:
            yield f"{attention}, compiled", compiled


def modernbert(workload: Workload, precision: Precision, attention: str, compiled: bool) -> Contender:
    """transformers' ModernBertForMaskedLM with AdamW in one kernel."""
    from transformers import AutoConfig, ModernBertForMaskedLM

    options: dict[str, Any] = dict(attn_implementation=attention, sparse_prediction=True)
    settings: Any = AutoConfig.for_model(**export_config(workload.config), **options)
    model: Any = ModernBertForMaskedLM(settings)
    rows = {name: padded_rows(workload)[name] for name in ("input_ids", "attention_mask", "labels")}
    micro_batches = max(1, len(workload.lengths) // 8)
    return transformers_step(workload, model.to(device()), rows, precision, compiled, True, micro_batches)


def _against_fastest(row: str, target: float | None, rates: Rates, own: str) -> Row:
    """Of each round, over the fastest of theirs in it."""
    fastest = [max(rate for name, rate in each.items() if name.startswith(ATTENTIONS)) for each in rates]
    return Row.over(row, target, [each[own] / rate for each, rate in zip(rates, fastest, strict=True)])
