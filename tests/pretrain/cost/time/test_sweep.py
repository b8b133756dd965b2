"""`plan --sweep`: other numbers of nodes, other layouts."""

import io
from functools import partial

import pytest
from rich.console import Console

from model.errors import UserError
from pretrain.cost.time.machine import load_machine
from pretrain.cost.time.sweep import over_layouts, over_nodes, read_sweep, sweep_table
from pretrain.cost.time.tables import gib_of_a_rank
from pretrain.recipe import load_recipe, resolve

H100 = load_machine("h100")


def test_more_nodes_are_faster_and_cost_more_gpu_hours():
    recipe = load_recipe("large", ["precision=bf16"])
    choices, left_out = over_nodes(partial(resolve, recipe, None), H100, 8, [1, 4, 2, 3], None)
    assert [choice.name for choice in choices] == ["4 nodes", "2 nodes", "1 node"]
    costs = [choice.time.rank_hours for choice in choices]
    assert costs == sorted(costs, reverse=True)
    (line,) = left_out
    assert line.startswith("3 nodes: left out: stage short: batch.global 256 is not a multiple of the 24")


def test_layouts_are_those_that_divide_and_fit_the_fastest_first():
    run = resolve(load_recipe("mini", ["precision=bf16", "batch.global=1024"]), None, 2)
    machine, largest = H100.model_copy(update={"memory_gib": None, "ranks": 2}), "ZeRO 0, TP 1, micro-batch 512"
    (whole,) = (choice.time for choice in over_layouts(run, machine, None)[0] if choice.name == largest)
    limit = gib_of_a_rank(whole, whole.run.stages[-1]) - 0.01
    choices, lines = over_layouts(run, machine.model_copy(update={"memory_gib": limit}), None)
    names = [choice.name for choice in choices]
    assert len(set(names)) == len(names) > 20
    seconds = [choice.time.seconds for choice in choices]
    assert seconds == sorted(seconds)
    assert "ZeRO 1, TP 1, micro-batch 8" in names and largest not in names
    assert lines[0].endswith(f"more do not fit {limit:g} GiB")
    for choice in choices:
        for stage in choice.time.run.stages:
            assert stage.micro_batch * stage.accumulation * stage.data_parallel == stage.global_batch
            assert stage.data_parallel * stage.tensor_parallel == 2
    console = Console(width=80, file=io.StringIO())
    console.print(sweep_table(choices))
    assert "…" not in console.file.getvalue()


@pytest.mark.parametrize("text", ["zero", "nodes=", "nodes=0", "nodes=1,two", "layout=2"])
def test_other_sweeps_are_refused(text):
    with pytest.raises(UserError, match="write --sweep nodes=1,2,4,8 or --sweep layout"):
        read_sweep(text)
