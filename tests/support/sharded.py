"""Small runs of a chosen optimizer on ranks."""

from dataclasses import replace
from typing import Any

from pretrain.engine.build import EngineSettings
from pretrain.optim.section import Optimizer
from tests.support.harness import settings

OPTIONS: dict[str, dict[str, Any]] = {
    "adamw": dict(name="adamw", lr=2e-3),
    "clipped": dict(name="adamw", lr=2e-3, clip_bucket_mb=0.016),
    "lamb": dict(name="lamb", lr=2e-2, weight_decay=0.1),
    "lans": dict(name="lans", lr=2e-2, weight_decay=0.1, adapted="all"),
    "muon": dict(name="muon", lr=5e-3, weight_decay=0.1, fallback={"lr_factor": 0.4}),
    "muon-heads": dict(name="muon", lr=5e-3, weight_decay=0.1, scale="moonshot", heads="apart", nesterov=False),
    "stableadamw": dict(name="stableadamw", lr=5e-3, weight_decay=0.1),
    "nvlamb": dict(name="lamb", lr=2e-2, prenormalize="always", trust_bounds=(0.01, 10.0)),
}
"""By a short name, with what each does differently switched on somewhere."""


def optimizer_settings(name: str, tp: int, stage: int, precision: str = "fp32", **others: Any) -> EngineSettings:
    section = Optimizer(betas=(0.9, 0.98), **OPTIONS[name])
    return replace(
        settings(tp, stage, precision, **others),
        make_optimizer=section.chosen.make,
        groups=section.chosen.group_rules,
        grad_clip=0.5,
        clip_bucket_mb=section.clip_bucket_mb,
    )
