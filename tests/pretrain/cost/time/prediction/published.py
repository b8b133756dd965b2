"""GPUs that others have measured: MLPerf's rows of BERT-large, and throughputs of BERT-large and ModernBERT."""

from dataclasses import dataclass
from functools import cached_property
from statistics import median

from pretrain.cost.time.machine import Machine, load_machine
from pretrain.cost.time.step import step_time
from pretrain.recipe import Run, load_recipe, resolve


@dataclass(frozen=True)
class Row:
    """What was published: samples (or tokens) a second of each GPU."""

    name: str
    machine: str
    num_gpus: int
    overrides: tuple[str, ...]
    rate: float
    segment: float | None = None
    samples_a_row: float = 1.0
    """For tokens: the tokens of a row."""

    def seconds(self) -> float:
        """Of a step."""
        return self.rows * self.samples_a_row / self.rate / self.num_gpus

    @property
    def rows(self) -> int:
        return next(int(each.partition("=")[2]) for each in self.overrides if each.startswith("batch.global="))

    @cached_property
    def run(self) -> Run:
        return resolve(load_recipe("large", ("precision=bf16", *SINGLE, *self.overrides)), None, self.num_gpus)

    def predicted(self, machine: Machine) -> float:
        return step_time(self.run, self.run.stages[0], machine, self.segment).seconds


SINGLE = ("stages=[{name: only}]", "steps=100000", "model.attention_dropout=0.1", "deepspeed=ds_configs/zero1.json")


def _mlperf(machine: str, num_gpus: int, samples: int, rate: float) -> Row:
    rows = samples // 2
    given = ("sequence=512", f"batch.global={rows}", "optimizer.name=lamb")
    return Row(f"{num_gpus} {machine}, {samples} samples", machine, num_gpus, given, rate, 256.0, 2.0)


MLPERF = (
    _mlperf("h100", 8, 768, 970),
    _mlperf("h100", 64, 4608, 837),
    _mlperf("a100-80gb", 8, 448, 304),
    _mlperf("a100-80gb", 64, 3072, 284),
)

LAMB = ("optimizer.name=lamb", "compile=false")
PUBLISHED = (
    Row(
        "BERT-large, 128 tokens, LAMB, fp16, 8 A100, micro-batch 256 (NVIDIA DeepLearningExamples 21.11)",
        "a100-80gb",
        8,
        ("sequence=128", "batch.global=65536", "batch.micro=256", *LAMB),
        574,
    ),
    Row(
        "BERT-large, 512 tokens in bins of 64, LAMB, fp16, 8 A100, micro-batch 32 (the same)",
        "a100-80gb",
        8,
        ("sequence=512", "batch.global=32768", "batch.micro=32", *LAMB),
        207,
    ),
    Row(
        "ModernBERT-base, 1024 tokens, tokens/s, 8 H100 (Warner et al. 2024)",
        "h100",
        8,
        (
            "model={preset: modernbert-base}",
            "data.sentence_pairs=none",
            "sequence=1024",
            "batch.global=4608",
            "batch.micro=96",
        ),
        304_000,
        samples_a_row=1024.0,
    ),
)


def fitted(machine: Machine, row: Row) -> Machine:
    """With arithmetic and memory as much faster or slower as makes the step of one row right; links stay."""
    low, high = 0.2, 5.0
    for _ in range(20):
        factor = (low * high) ** 0.5
        if row.predicted(scaled(machine, factor)) > row.seconds():
            low = factor
        else:
            high = factor
    return scaled(machine, factor)


def scaled(machine: Machine, factor: float) -> Machine:
    arithmetic = {
        precision: each.model_copy(
            update={
                "products": [(m, k, n, factor * rate) for m, k, n, rate in each.products],
                "attention": [(length, width, factor * rate) for length, width, rate in each.attention],
            }
        )
        for precision, each in machine.arithmetic.items()
    }
    for each in arithmetic.values():
        vars(each).pop("_products", None)  # worked out from the old rates
        vars(each).pop("_attention", None)
    rates = {"gb_per_second": factor * machine.gb_per_second, "arithmetic": arithmetic}
    return machine.model_copy(update=rates)


def mlperf_lines() -> list[str]:
    rows, errors = [], []
    for known in MLPERF:
        machine = fitted(load_machine(known.machine), known)
        for other in MLPERF:
            if other.machine == known.machine and other is not known:
                error = other.predicted(machine) / other.seconds() - 1
                errors.append(abs(error))
                rows.append(f"| {known.name} | {other.name} | {1e3 * other.predicted(machine):.1f} | "
                            f"{1e3 * other.seconds():.1f} | {error:+.1%} |")  # fmt: skip
    return [
        "| calibrated on | predicting | predicted ms | published ms | error |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"Median error {median(errors):.1%}, worst {max(errors):.1%}; goal 10%.",
    ]


def published_lines() -> list[str]:
    rows = []
    for row in PUBLISHED:
        seconds = row.predicted(load_machine(row.machine))
        reached = row.rows * row.samples_a_row / seconds / row.num_gpus
        rows.append(f"| {row.name} | {reached:,.0f} | {row.rate:,.0f} | {row.rate / reached - 1:+.1%} |")
    return ["| what | predicted a second and GPU | published | error of the step |", "|---|---|---|---|", *rows]
