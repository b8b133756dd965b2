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


def _deep_learning_examples(num_gpus: int, micro_batches: int, sequences_per_second: float) -> Row:
    """README at 729963d, "Training performance: NVIDIA DGX A100 (8x A100 80GB)": FP16, rows of 128 tokens."""
    batch = ("sequence=128", f"batch.global={256 * micro_batches * num_gpus}", "batch.micro=256")
    name = f"BERT-large, rows of 128, {num_gpus} A100, {micro_batches} micro-batch{'es' * (micro_batches > 1)} of 256"
    given = (*batch, "optimizer.name=lamb", "compile=true")  # run_pretraining.py fuses unless it is told not to
    return Row(name, "a100-80gb", num_gpus, given, sequences_per_second / num_gpus)


MODERNBERT_TOKENS = 1.719e12  # yamls/modernbert/modernbert-base-pretrain.yaml at 0e9dbe6, max_duration
MODERNBERT_HOURS = 194  # Warner et al. 2024 (arXiv 2412.13663), page 16
PUBLISHED = (
    _deep_learning_examples(8, 32, 4_591),
    _deep_learning_examples(256, 1, 138_294),
    Row(
        "ModernBERT-base, tokens, 8 H100, 6 micro-batches of 96",
        "h100",
        8,
        (  # of the same yaml
            "model={preset: modernbert-base}",
            "data.sentence_pairs=none",
            "data.mask_rate=0.3",
            "sequence=1024",
            "batch.global=4608",
            "batch.micro=96",
        ),
        MODERNBERT_TOKENS / (3600 * MODERNBERT_HOURS) / 8,
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
