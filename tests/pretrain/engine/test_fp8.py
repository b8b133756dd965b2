"""Training in FP8, emulated: as without it within its rounding, on several kinds of engine, through a change of shape,
and between engines with and without it. Nothing but products changes."""

from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from deepspeed.runtime.engine import DeepSpeedEngine

from growth.operators import make_operator, shape_change
from model.errors import UserError
from pretrain.engine import fp8
from pretrain.engine.move import move
from pretrain.engine.zero import basic_optimizer, destroy
from pretrain.recipe import Recipe
from pretrain.training import trainer
from pretrain.training.train import train as train_recipe
from tests.support.harness import CONFIG, settings, start, train
from tests.support.tiny import tiny_recipe
from tests.support.workers import pool

NARROW, STEPS = CONFIG.replace(ffn=64), 4


def losses(tp: int, stage: int, precision: str, switches: tuple[bool, bool]) -> tuple[list[float], set[torch.dtype]]:
    """Of one batch again and again: steps, a change of shape, steps; and the types of masters and moments. `switches`:
    which of the two engines multiply in FP8."""
    first, second = (replace(settings(tp, stage, precision), fp8=switch) for switch in switches)
    engine = start(NARROW, first)
    found, held = [train(engine, 0, 1)[0] for _ in range(STEPS)], types_held(engine)
    operators = [make_operator("stack", {}), make_operator("widen", {})]
    engine, _ = move(engine, second, lambda state: shape_change(NARROW, operators, {"layers": 4, "ffn": 96}))
    found += [train(engine, 0, 1)[0] for _ in range(STEPS)]
    held |= types_held(engine)
    destroy(engine)
    return found, held


def types_held(engine: DeepSpeedEngine) -> set[torch.dtype]:
    optimizer = basic_optimizer(engine)
    masters = {parameter.dtype for group in optimizer.param_groups for parameter in group["params"]}
    return masters | {value.dtype for state in optimizer.state.values() for value in state.values() if value.dim()}


def test_it_trains_as_without_and_takes_over_in_either_direction():
    """A rounding to e4m3 is off by up to 2^-4, but the losses, which fall from 5.4 to 4, by 0.004 at most (measured).

    Ranks that scale their own parts train as one that scales the whole: scales are powers of two, so only the order of
    sums differs, and a rounding here and there that it turns over.
    """
    ((plain, _),) = pool(1).run(losses, 1, 1, "fp32", (False, False))
    ((whole, _),) = pool(1).run(losses, 1, 1, "fp32", (False, True))
    (divided, held), _ = pool(2).run(losses, 2, 1, "fp32", (False, True))
    (gathered, also_held), _ = pool(2).run(losses, 1, 3, "bf16", (True, False))
    assert whole[:STEPS] == plain[:STEPS] and whole[STEPS + 1] != plain[STEPS + 1], "nothing is rounded"
    for found in (whole, divided, gathered):
        assert found == pytest.approx(plain, abs=0.01)
    assert divided == pytest.approx(whole, rel=1e-4)
    assert plain[-1] < plain[0] - 1
    assert held == also_held == {torch.float32}


def multiplies(recipe: Recipe, folder: Path) -> tuple[set[tuple[bool, bool]], str]:
    """Trains; whether blocks and heads multiply in FP8 in its steps, and what the run says."""
    seen, update = set(), trainer.update

    def updating(training, *arguments):
        model = training.engine.module
        seen.add((model.blocks[0].attention.query.fp8, model.mlm.transform.fp8))
        return update(training, *arguments)

    with patch.object(trainer, "update", updating), redirect_stderr(StringIO()) as said:
        train_recipe(recipe, folder)
    return seen, said.getvalue()


def test_a_recipe_asks_for_it(corpus, tmp_path):
    changes = dict(schedule={"warmup": 1}, stages=[{"name": "only", "steps": 2}], validation={"rows": 8})
    ((seen, said),) = pool(1).run(multiplies, tiny_recipe(corpus, fp8=True, **changes), tmp_path / "run")
    assert seen == {(True, False)}
    assert "fp8 is emulated on this CPU" in said


@pytest.mark.parametrize(("capability", "fits"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_a_gpu_without_it_is_refused(monkeypatch, capability, fits):
    monkeypatch.setattr(fp8, "computes_on_gpu", lambda: True)
    monkeypatch.setattr(fp8, "device", lambda: torch.device("cuda", 0))
    a100 = SimpleNamespace(get_device_capability=lambda device: capability, get_device_name=lambda device: "an A100")
    monkeypatch.setattr(fp8.torch, "cuda", a100)
    assert fp8.emulation_in_words(True) is None
    if fits:
        fp8.check_fp8_device()
    else:
        with pytest.raises(UserError, match=r"needs a GPU of compute capability 8\.9 or higher .* an A100 has 8\.0"):
            fp8.check_fp8_device()
