"""Where ranks may clip their own gradients, and what `plan` says and counts of it."""

import pytest

from model.errors import UserError
from pretrain.cost.communication import balance
from pretrain.cost.memory import stage_bytes
from pretrain.cost.plan import plan_tables
from pretrain.optim.section import Optimizer
from pretrain.recipe import resolve
from tests.support.made_up import made_up_recipe

ZERO2 = "ds_configs/zero2.json"


def run(clips: bool = True, **changes):
    optimizer = {"lr": 1e-3, **({"clip_bucket_mb": 0.1} if clips else {}), **changes.pop("optimizer", {})}
    return resolve(
        made_up_recipe("clipped", 10, optimizer=optimizer, batch={"global": 16, "micro": 2}, **changes), None, 4
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deepspeed": "ds_configs/zero0.json"}, "is for ZeRO 1 and 2, .* this stage has ZeRO 0"),
        ({"deepspeed": "ds_configs/zero3.json"}, "is for ZeRO 1 and 2, .* this stage has ZeRO 3"),
        ({"faults": {"min_nodes": 2}}, "does not go with faults.min_nodes .* faults.any_ranks: true"),
    ],
)
def test_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        run(**changes)
    assert "\n" not in str(caught.value)


def test_plan_says_how_and_counts_whole_gradients():
    told, allowed = (
        "\n".join(str(part) for part in plan_tables(each).renderables)
        for each in (run(deepspeed=ZERO2), run(faults={"min_nodes": 2, "any_ranks": True}))
    )
    assert "each of 4 data-parallel ranks clips its own gradient, in " in told and "buckets of 0.1 MB" in told
    assert "another number of ranks clips other gradients, " in allowed
    (plain,), (clipping,) = (run(clips, deepspeed=ZERO2).stages for clips in (False, True))
    (as_zero1,) = run().stages
    gradients = [stage_bytes(stage, on_cpu=True)[0].gradients for stage in (plain, clipping, as_zero1)]
    assert 4 * gradients[0] == pytest.approx(gradients[1], abs=16) and gradients[1] == gradients[2]
    assert plain.accumulation == 2
    assert balance(clipping).messages == pytest.approx(2 / 3 * balance(plain).messages)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_there_must_be_a_norm(name):
    with pytest.raises(ValueError, match="clip_bucket_mb clips to grad_clip, which is 0"):
        Optimizer(name=name, lr=1e-3, grad_clip=0, clip_bucket_mb=25)
