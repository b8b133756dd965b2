"""The table of targets: rows against Hugging Face, against the machine's limit, and of the engine's own cost."""

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from model.config import BertConfig
from pretrain.engine.distributed import process_group
from pretrain.engine.fast_fp32 import fast_fp32
from pretrain.launch.gpus import count_gpus
from pretrain.profile.against import Row, Workload, bare_loop, compare, hugging_face, ours, useful_flops
from pretrain.profile.measurement import Measurement
from pretrain.profile.synthetic import synthetic_recipe
from pretrain.profile.tables import print_table
from pretrain.profile.verb import Profile
from pretrain.recipe.precision import of_this_machine
from pretrain.recipe.schema import Precision
from pretrain.settings.tables import WholeTable

HEADS_OF = {256: 4, 768: 12}


def shape(hidden: int, vocab_size: int, dropout: float) -> BertConfig:
    return BertConfig(
        layers=4,
        hidden=hidden,
        heads=HEADS_OF[hidden],
        ffn=4 * hidden,
        vocab_size=vocab_size,
        hidden_dropout=dropout,
        attention_dropout=dropout,
    )


def profile_against_hugging_face(num_rounds: int, out: Path, json_file: Path | None) -> None:
    """Measures every row, prints the table and writes it as JSON, whatever becomes of the last rows. Those take two
    processes, so one GPU leaves them out."""
    torch.set_num_threads(1)  # of a CPU: as ranks have, one to a core; where two share the work, each counts for less
    precision = of_this_machine()
    print(f"all in {precision}, but for transformers out of the box, which is in fp32", flush=True)
    with process_group(), fast_fp32() if precision == "fp32" else nullcontext():  # as runs are, for both sides
        rows = rows_against_hugging_face(num_rounds, precision)
    try:
        if count_gpus() == 1:
            print(f"one GPU: {', '.join(LAYOUTS)} are left out", file=sys.stderr)
        else:
            rows += rows_on_two_processes(num_rounds, out)
    finally:
        show(rows, json_file)


def show(rows: list[Row], json_file: Path | None) -> None:
    """As a table, and in the file."""
    print_table(table_of(rows))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")


def rows_on_two_processes(num_rounds: int, out: Path) -> list[Row]:
    with TemporaryDirectory() as directory:
        profile = Profile(str(synthetic_recipe(Path(directory))), (), stage=0, nproc=2, steps=12, out=out, profiled=0)
        return rows_of_layouts(profile, num_rounds)


def rows_against_hugging_face(num_rounds: int, precision: Precision, sequence: int = 128) -> list[Row]:
    """All rows that one process can measure. A step reads 256 sequences in micro-batches of about 4096 tokens."""
    small, small_dropout, wide = shape(256, 8192, 0.0), shape(256, 8192, 0.1), shape(768, 30_528, 0.0)
    best = dict(compiled=True, fused=True)
    default = dict(compiled=False, fused=False)
    rows = []

    varied, varied_dropout = (Workload.varied(config, sequence, 128) for config in (small, small_dropout))
    rounds = compare(
        {
            "ours": ours(varied, precision, 3),
            "ours dropout": ours(varied_dropout, precision, 3),
            "best": hugging_face(varied, precision, **best, micro_batches=4),
            "dropout": hugging_face(varied_dropout, precision, **default, micro_batches=4),
            "default": hugging_face(varied_dropout, "fp32", **default, micro_batches=4),
        },
        precision,
        num_rounds,
    )
    rows += [
        _ratio("varied lengths, against its best", 2.5, rounds, "ours", "best"),
        _ratio("varied lengths, against it out of the box", 8.0, rounds, "ours", "default"),
        _ratio(f"varied lengths, dropout 0.1 both, against its {precision}", 2.5, rounds, "ours dropout", "dropout"),
        _share_of_limit("useful FLOPs over the matmul limit, varied lengths", 0.55, rounds, varied),
    ]

    full = Workload.full(small, sequence, 32)
    rounds = compare(
        {
            "ours": ours(full, precision),
            "bare": bare_loop(full, precision),
            "best": hugging_face(full, precision, **best),
            "default": hugging_face(Workload.full(small_dropout, sequence, 32), "fp32", **default),
        },
        precision,
        num_rounds,
    )
    rows += [
        _ratio("full rows, against its best", 1.8, rounds, "ours", "best"),
        _ratio("full rows, against it out of the box", 6.0, rounds, "ours", "default"),
        _share_of_limit("useful FLOPs over the matmul limit, full rows", 0.65, rounds, full),
        Row.over(
            "lost to the engine at 1 process, 4096 tokens (at most)", 0.10, [1 - r["ours"] / r["bare"] for r in rounds]
        ),
    ]

    full_wide = Workload.full(wide, sequence, 16)
    rounds = compare({"ours": ours(full_wide, precision)}, precision, num_rounds)
    rows.append(_share_of_limit("useful FLOPs over the matmul limit, hidden 768", 0.50, rounds, full_wide))
    return rows


LAYOUTS = {
    "ZeRO-1 on 2 processes": (0.97, 1, 1),
    "ZeRO-3 on 2 processes": (0.80, 3, 1),
    "TP 2 on 2 processes": (0.72, 0, 2),
}
"""Target, ZeRO stage and tensor-parallel size of each row against one plain process with two threads."""


def rows_of_layouts(profile: Profile, num_rounds: int) -> list[Row]:
    """Each layout's tokens per second over those of one process with all threads, in turn, process by process; and how
    far the memory of each is from what `plan` says."""
    ratios: dict[str, list[float]] = {name: [] for name in LAYOUTS}
    misses: list[float] = []
    for index in range(num_rounds):
        plain = profile.run(f"plain-{index}", _layout(0, 1), nproc=1)
        misses.append(_miss(plain))
        for name, (_, stage, tp) in LAYOUTS.items():
            found = profile.run(f"{name.split()[0].lower()}-{index}", _layout(stage, tp), nproc=2)
            ratios[name].append(found.tokens_per_second / plain.tokens_per_second)
            misses.append(_miss(found))
    rows = [Row.over(f"{name}, against 1 with 2 threads", LAYOUTS[name][0], ratios[name]) for name in LAYOUTS]
    return [*rows, Row.over("peak memory of a rank, off what plan says (at most)", 0.10, misses)]


def _miss(found: Measurement) -> float:
    return abs(found.peak_bytes / found.predicted_bytes - 1)


def _layout(stage: int, tp: int) -> list[str]:
    return [f"deepspeed=ds_configs/zero{stage}.json", f"layout.tensor_parallel={tp}"]


def table_of(rows: list[Row]) -> WholeTable:
    table = WholeTable(title="targets, by paired medians")
    for heading in ("row", "target", "median", "range"):
        table.add_column(heading, justify="left" if heading == "row" else "right")
    for row in rows:
        target = "" if row.target is None else f"{row.target:.2f}"
        table.add_row(row.row, target, f"{row.median:.2f}", f"{row.low:.2f}..{row.high:.2f}")
    return table


def _ratio(row: str, target: float, rounds: list[dict[str, float]], ours_name: str, theirs_name: str) -> Row:
    return Row.over(row, target, [rates[ours_name] / rates[theirs_name] for rates in rounds])


def _share_of_limit(row: str, target: float, rounds: list[dict[str, float]], workload: Workload) -> Row:
    flops_per_token = useful_flops(workload) / sum(workload.lengths)
    return Row.over(row, target, [rates["ours"] * flops_per_token / rates["matmul"] for rates in rounds])
