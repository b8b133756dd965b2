"""What `profile` measured of one configuration."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pretrain.profile.breakdown import Breakdown
from pretrain.recipe.schema import Precision

OUT_OF_MEMORY = 71
"""Exit code of a rank whose memory is full (EX_OSERR of sysexits.h)."""


@dataclass(frozen=True)
class Measurement:
    """One configuration of one stage. Times are those of one optimizer step, which the slowest rank determines."""

    ranks: int
    threads: int
    tensor_parallel: int
    zero_stage: int
    micro_batch: int
    accumulation: int
    sequence: int
    precision: Precision
    shape: str
    step_seconds: list[float]
    tokens_per_step: float
    """Padding excluded."""
    useful_flops_per_step: float
    """FLOPs of real tokens, by pretrain/cost/flops.py, and those of the optimizer itself."""
    peak_bytes: int
    """Most memory of a rank in a step: allocated on a GPU, resident (beyond the imported libraries) on a CPU."""
    predicted_bytes: int
    """The same, as `plan` predicts it."""
    breakdown: Breakdown | None

    @property
    def seconds(self) -> float:
        return median(self.step_seconds)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_per_step / self.seconds

    @property
    def useful_flops_per_second(self) -> float:
        return self.useful_flops_per_step / self.seconds

    @classmethod
    def read(cls, file: Path) -> "Measurement":
        values = json.loads(file.read_text("utf-8"))
        breakdown = values.pop("breakdown")
        return cls(**values, breakdown=Breakdown(**breakdown) if breakdown else None)
