"""A table on a narrow console keeps every number whole."""

import io

import pytest
from rich import box
from rich.console import Console

from pretrain.cost.plan import plan_tables
from pretrain.recipe import load_recipe, resolve
from pretrain.settings.tables import WholeTable


def drawn(shown, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(shown)
    return out.getvalue()


def table() -> WholeTable:
    table = WholeTable("stage", "parameters", "FLOP", title="a run", box=box.SIMPLE_HEAD)
    table.add_row("quarter", "39,233,084", "2.09e+18")
    table.add_row("total", "", "3.82e+19")
    return table


def test_a_row_becomes_a_block_where_the_console_is_too_narrow():
    assert [line.split() for line in drawn(table(), 60).splitlines() if "quarter" in line] == [
        ["quarter", "39,233,084", "2.09e+18"]
    ]
    narrow = [line.split() for line in drawn(table(), 28).splitlines() if line.strip()]
    assert narrow == [
        ["a", "run"],
        ["stage", "quarter"], ["parameters", "39,233,084"], ["FLOP", "2.09e+18"],
        ["stage", "total"], ["FLOP", "3.82e+19"],
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
def test_plan_shortens_nothing(width):
    shown = drawn(plan_tables(resolve(load_recipe("compound-base"), None, 8)), width)
    assert "…" not in shown and "110,106,428" in shown and "700,000" in shown
