"""`check_operator` passes what does its duty, in an engine too, and says what an operator does wrong."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from growth.change import ShapeChange
from growth.operators import make_operator, shape_change
from growth.operators.append_top import AppendTop
from growth.operators.base import Inputs
from growth.state import Record
from model.config import BertConfig
from model.parameters import ParameterSpec
from pretrain.engine.exits import Stop
from pretrain.engine.move import move
from pretrain.use.check_operator import SMALL, check_operator
from tests.support.harness import start
from tests.support.page_code import blocks
from tests.support.sharded import optimizer_settings
from tests.support.workers import pool


def of_the_page(name: str) -> type:
    """An operator of docs/adding-an-operator.md."""
    scope: dict = {"__name__": "pages"}
    (text,) = (block.text for block in blocks("adding-an-operator.md") if f"class {name}(" in block.text)
    exec(text, scope)
    return scope[name]


def check_in_an_engine(name: str, layers: int) -> None:
    check_operator(make_operator(name, {}), {"layers": layers})


def test_the_operator_of_the_page_and_one_that_draws_do_their_duty():
    check_operator(of_the_page("DropLayers")(), {"layers": 1}, in_engine=False)
    pool(1).run(check_in_an_engine, "fresh_layers", 4)


def test_so_do_operators_that_read_a_saved_state_or_preserve_it():
    check_operator(make_operator("rewind", {"checkpoint": "first"}), {}, in_engine=False)
    check_operator(make_operator("tile_ffn", {}), {"ffn": 192}, tier=2, in_engine=False)


def broken(change_record: Callable[[ParameterSpec, Record], Record]) -> AppendTop:
    """Appends a copy of the top layer, and spoils its records."""

    class Broken(AppendTop):
        name = "broken"

        def rule(self, source: BertConfig, target: BertConfig, inputs: Inputs) -> ShapeChange:
            copies = super().rule(source, target, inputs)

            def rule(spec, fetch):
                record = copies.record(spec.name, fetch)
                return change_record(spec, record) if spec.block == 2 else record

            return ShapeChange(source, target, rule)

    return Broken()


@pytest.mark.parametrize(
    ("change_record", "tier", "message"),
    [
        (lambda spec, record: replace(record, weight=record.weight / 0), 3, "blocks.2.* is not finite"),
        (lambda spec, record: replace(record, weight=torch.randn_like(record.weight)), 3, "draw it from a seed"),
        (lambda spec, record: replace(record, exp_avg_sq=-record.exp_avg_sq), 3, "negative second moment"),
        (lambda spec, record: replace(record, step=9000), 3, "is at step 9000, after 3000"),
        (lambda spec, record: replace(Record.fresh(record.weight), step=record.step), 3, "use Record.fresh"),
        (
            lambda spec, record: replace(record, exp_avg_sq=record.exp_avg_sq / 9),
            3,
            "updates of .* grow to 2.97 times their size",
        ),
        (lambda spec, record: record, 1, "tier 1, but the loss goes from"),
        (
            lambda spec, record: replace(record, exp_avg_sq=record.exp_avg_sq.clone()),
            3,
            "grow broken cannot make blocks.2.attention.query.weight: .* has no second moment in a run with muon",
        ),
    ],
)
def test_what_an_operator_does_wrong_is_said(change_record, tier, message):
    with pytest.raises(AssertionError, match=message):
        check_operator(broken(change_record), {"layers": 3}, SMALL, tier, in_engine=False)


def move_with_muon() -> str:
    """What a run with Muon stops with, at an operator that reads what Muon does not keep."""
    engine = start(SMALL, optimizer_settings("muon", 1, 1))
    operator = broken(lambda spec, record: replace(record, exp_avg_sq=record.exp_avg_sq.clone()))
    change = shape_change(SMALL, [operator], {"layers": 3})
    with pytest.raises(Stop) as stopped:
        move(engine, optimizer_settings("muon", 1, 1), lambda state: change)
    return str(stopped.value)


def test_a_run_with_muon_stops_in_one_line():
    for line in pool(2).run(move_with_muon):
        assert line.startswith("grow broken cannot make blocks.2.attention.query.weight: blocks.1.")
        assert "\n" not in line and "let the operator do without it" in line


def test_a_wrong_prediction_of_gradients_is_not_tier_2():
    tile = make_operator("tile_ffn", {"moments": "copy"})
    with pytest.raises(AssertionError, match="tier 2, but the gradient of"):
        check_operator(tile, {"ffn": 192}, tier=2, in_engine=False)
