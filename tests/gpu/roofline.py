"""The least that a step takes on an H200, by kind of operator: bytes and FLOPs at its best rates, and launches.

python -m tests.gpu.roofline > the table of docs/performance.md

Compiled, a block's element-wise operators and norms between two products are one kernel, which reads and writes only
what others need; sums over tokens stay kernels of their own.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model.config import BertConfig
from pretrain.cost.memory import num_parameters
from tests.gpu.operators import Bytes, Operator, operators_of

BYTES_PER_SECOND, FLOPS_PER_SECOND, LAUNCH_SECONDS = 4.8e12, 790e12, 5e-6
"""Of an H200: the memory by its data sheet, 80% of the bf16 peak, and the host's part of a kernel."""

UPDATE_LAUNCHES = 90
UPDATE_BYTES = 4 + 6 + 4 + 8 + 28 + 6
"""Of an optimizer step at ZeRO 1 on one GPU, and for each parameter of it: gradients flattened, made fp32, their norm,
clipped; AdamW's pass; weights in bf16."""

STEPS = {"base": (256, 128), "large": (32, 512)}
"""Rows and their tokens."""

FUSED = "element-wise and norms, compiled"
FUSIBLE = ("norms", "GELU", "dropout", "residual sums", "copies and the rest")


@dataclass(frozen=True)
class Count:
    launches: int
    num_bytes: float
    flops: float = 0.0

    @property
    def seconds(self) -> float:
        return max(self.num_bytes / BYTES_PER_SECOND, self.flops / FLOPS_PER_SECOND)


Counts = dict[str, Count]
"""By kind of operator."""


def counts_of(name: str, compiled: bool) -> Counts:
    """One micro-batch, and the update."""
    config = BertConfig.preset(name).replace(attention_dropout=0.0)
    operators = operators_of(config, *STEPS[name])
    found: dict[str, list[Count]] = defaultdict(list)
    apart = [operator for operator in operators if not (compiled and is_fused(operator))]
    for operator in apart:
        found[operator.kind].append(Count(1, operator.num_bytes, operator.flops))
    if compiled:
        found[FUSED] = list(kernels(operators))
    found["optimizer"] = [Count(UPDATE_LAUNCHES, UPDATE_BYTES * num_parameters(config))]
    return {kind: together(counts) for kind, counts in found.items()}


def together(counts: Iterable[Count]) -> Count:
    counts = list(counts)
    return Count(
        sum(each.launches for each in counts),
        sum(each.num_bytes for each in counts),
        sum(each.flops for each in counts),
    )


def is_fused(operator: Operator) -> bool:
    return operator.region > 0 and operator.kind in FUSIBLE


def kernels(operators: Sequence[Operator]) -> Iterable[Count]:
    """Those that a compiler makes of the operators that it fuses: of a block's pass, those with the same
    products before them."""
    level: dict[int, int] = {}
    """Of a storage: how many operators that are no part of a kernel lie before it, on the longest way."""
    members: dict[tuple[int, int], list[Operator]] = defaultdict(list)
    for operator in operators:
        depth = max((level.get(storage, 0) for storage in operator.reads), default=0)
        if is_fused(operator):
            members[operator.region, depth].append(operator)
        for storage in operator.writes:
            level[storage] = depth + (not is_fused(operator))
    readers = Counter(storage for operator in operators for storage in operator.reads)
    for group in members.values():
        inside = Counter(storage for operator in group for storage in operator.reads)
        written: Bytes = {}
        read: Bytes = {}
        for operator in group:
            read |= {storage: size for storage, size in operator.reads.items() if storage not in written}
            written |= operator.writes
        needed = {storage: size for storage, size in written.items() if not 0 < readers[storage] == inside[storage]}
        yield Count(1, sum(read.values()) + sum(needed.values()))


def lines_of(name: str) -> list[str]:
    """In Markdown, the longest first."""
    plain, compiled = (counts_of(name, compiled) for compiled in (False, True))
    num_rows, sequence = STEPS[name]
    kinds = sorted(
        {**plain, **compiled}, key=lambda kind: -max(c[kind].seconds for c in (plain, compiled) if kind in c)
    )
    lines = [
        f"| BERT-{name}, {num_rows} rows of {sequence} | op by op: launches | GB | TFLOP | ms | compiled | GB | ms |"
    ]
    lines.append("|---" * 8 + "|")
    lines += [f"| {kind} | {_cells(plain.get(kind), True)} | {_cells(compiled.get(kind), False)} |" for kind in kinds]
    totals = []
    for counts, with_flops in ((plain, True), (compiled, False)):
        seconds = sum(count.seconds for count in counts.values())
        totals.append(_cells(together(counts.values()), with_flops, seconds))
    lines.append(f"| all | {' | '.join(totals)} |")
    by_the_host = (1e3 * LAUNCH_SECONDS * together(counts.values()).launches for counts in (plain, compiled))
    lines.append("| the host, for launches | | | | {:.1f} | | | {:.1f} |".format(*by_the_host))
    return lines


def _cells(count: Count | None, with_flops: bool, seconds: float | None = None) -> str:
    if count is None:
        return " | ".join(["-"] * (4 if with_flops else 3))
    flops = [f"{count.flops / 1e12:.2f}"] if with_flops else []
    milliseconds = 1e3 * (count.seconds if seconds is None else seconds)
    return " | ".join([f"{count.launches:,}", f"{count.num_bytes / 1e9:.1f}", *flops, f"{milliseconds:.1f}"])


if __name__ == "__main__":
    print("\n\n".join("\n".join(lines_of(name)) for name in STEPS))
