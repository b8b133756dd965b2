"""Engines of every kind on CUDA, in one process: steps, a move, offload, a checkpoint. On the CPU the tests try
themselves out."""

import math

import pytest
import torch

from tests.gpu.matrix import CASES, reference, run_case
from tests.support.workers import pool

TRIED_OUT = ("ZeRO 3, LANS",)
"""On a CPU, whose engines other tests know."""

TOLERANCE = {"fp32": 1e-4, "bf16": 0.03, "fp16": 0.03}


@pytest.mark.parametrize(
    ("name", "on_gpu"),
    [(name, False) for name in TRIED_OUT] + [pytest.param(name, True, marks=pytest.mark.gpu) for name in CASES],
)
def test_an_engine_trains_moves_and_resumes(name, on_gpu):
    (found,) = pool(1, on_gpu).run(run_case, name)
    assert torch.device(found["device"]).type == ("cuda" if on_gpu else "cpu")
    (expected,) = pool(1).run(reference)
    alike = 3 if CASES[name].optimizer is None else 1  # steps that the reference takes as well
    assert found["losses"][:alike] == pytest.approx(expected[:alike], abs=TOLERANCE[CASES[name].precision])
    assert all(map(math.isfinite, found["losses"]))
    assert found["resumed alike"] or on_gpu
