"""`fp8: true` is refused in one line where a width, or the precision, does not go with it."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from model.errors import UserError
from pretrain.cost.plan import print_plan
from pretrain.recipe import resolve
from tests.support.tiny import tiny_recipe


def resolved(ranks: int = 1, model: dict | None = None, **changes):
    shape = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32) | (model or {})
    stages = [{"name": "only", "steps": 10}]
    return resolve(tiny_recipe(Path("corpora/tiny"), fp8=True, model=shape, stages=stages, **changes), None, ranks)


def test_widths_of_sixteen_go_with_it():
    run, said = resolved(2, layout={"tensor_parallel": 2}, precision="bf16"), StringIO()
    print_plan(run, console=Console(file=said, width=200))
    assert "multiply in FP8; FLOPs and bytes are counted as without it" in said.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model=dict(ffn=72)), r"stage only: fp8 needs .* 16: model\.ffn is 72 in blocks\.0\.feedforward\.input"),
        (dict(model=dict(hidden=40)), r"model\.hidden is 40 in blocks\.0\.attention\.query"),
        (dict(model=dict(heads=3, head_dim=8)), r"model\.heads \* head_dim is 24"),
        (
            dict(ranks=2, model=dict(ffn=48), layout={"tensor_parallel": 2}),
            r"model\.ffn / tensor_parallel 2 is 24 in blocks\.0\.feedforward\.input\.weight; change it, or leave",
        ),
        (dict(model=dict(low_rank={"feedforward.input": 8})), r"model\.low_rank is 8 in .*feedforward\.input\.down"),
        (dict(precision="fp16"), "fp8 goes with precision bf16 or fp32"),
    ],
)
def test_others_do_not(changes, message):
    with pytest.raises(UserError, match=message):
        resolved(**changes)


def pruned(multiple: int, **changes):
    stages = [{"name": "whole", "steps": 5}, {"name": "pruned", "steps": 5, "shape": {"ffn": 32}, **changes}]
    stages[1]["grow"] = {"prune_neurons": {"quota": "global"}}
    model = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32, ffn_multiple=multiple)
    return resolve(tiny_recipe(Path("corpora/tiny"), fp8=True, model=model, stages=stages), None, 2)


def test_widths_that_the_run_decides_are_multiples_too():
    pruned(16)
    with pytest.raises(UserError, match=r"stage pruned: fp8 needs .* set model\.ffn_multiple to a multiple of 16, or"):
        pruned(8)
    with pytest.raises(UserError, match=r"set model\.ffn_multiple to a multiple of 32"):
        pruned(16, layout={"tensor_parallel": 2})
