"""The cost model: what it adds up, in which units, and what makes a step longer or shorter."""

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from functorch.compile import aot_module, make_boxed_func, min_cut_rematerialization_partition
from torch import Tensor

from model import fp8
from model.batch import Batch
from model.errors import UserError
from model.linear import multiply_in_fp8
from model.parameters import parameter_table
from pretrain.cost.memory import num_parameters
from pretrain.cost.savings import stage_flops
from pretrain.cost.time.fp8 import cast_bytes, casts_of
from pretrain.cost.time.machine import Arithmetic, Host, Link, Machine, Rates, load_machine
from pretrain.cost.time.messages import Message
from pretrain.cost.time.pauses import state_bytes
from pretrain.cost.time.products import backward_products, forward_products, mixing
from pretrain.cost.time.rates import interpolated
from pretrain.cost.time.run import run_time
from pretrain.cost.time.step import Step, step_time
from pretrain.recipe import ResolvedStage, Run, load_recipe, resolve
from tests.support.running import build

ROUND = Machine(
    name="round",
    about="rates of one thing a second",
    error_percent=1,
    error_source="it is made up",
    device="gpu",
    ranks=8,
    arithmetic={
        "bf16": Arithmetic(peak_tflops=1, products=[(1024, 1024, 1024, 1)], attention=[(512, 64, 1)]),
    },
    gb_per_second=1e12,
    host=Host(launch_us=0),
    within=Link(latency_us=0, gb_per_second=1),
)
"""One TFLOP/s whatever the shape, and nothing else takes time but messages."""


def planned(recipe: str, num_ranks: int, *overrides: str) -> Run:
    return resolve(load_recipe(recipe, ("precision=bf16", *overrides)), None, num_ranks)


@pytest.mark.parametrize("recipe", ["base", "albert-base", "low-rank-base", "bert2bert-base"])
def test_products_are_those_of_the_flop_formula(recipe):
    """Padding of the vocabulary aside, which is computed and does not count there."""
    for stage in planned(recipe, 2, "batch.micro=32").stages:
        forward, backward = mixing(stage)
        products = sum(each.flops for each in (*forward_products(stage), *backward_products(stage)))
        mixed = sum(each.flops for each in (*forward, *backward))
        whole = stage.accumulation * stage.data_parallel * (products + mixed)
        assert whole == pytest.approx(stage_flops(stage), rel=2e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_at_one_tflop_a_second_a_step_takes_its_tflops(optimizer):
    run = planned("base", 1, "batch.micro=32", f"optimizer.name={optimizer}")
    step = step_time(run, run.stages[0], ROUND)
    assert step.seconds == pytest.approx(step.flops / 1e12, rel=5e-3)
    assert step.share_of(ROUND.of("bf16").peak) == pytest.approx(1, rel=5e-3)
    assert step.tokens_per_second == pytest.approx(256 * 128 / step.seconds)


@pytest.mark.parametrize(("num_ranks", "share"), [(1, 0.5), (5, 0.5 + 0.5 * 4 / 7), (8, 1), (16, 1)])
def test_a_rank_whose_neighbours_stand_still_works_at_its_rates_alone(num_ranks, share):
    """Twice as fast alone, and between the two with some of the node's eight at work."""
    fast = Arithmetic(products=[(1024, 1024, 1024, 2)], attention=[(512, 64, 2)])
    alone = Rates(arithmetic={"bf16": fast}, gb_per_second=2e12)
    run = planned("base", num_ranks, f"batch.global={32 * num_ranks}", "batch.micro=32")
    step, crowded = (
        step_time(run, run.stages[0], ROUND.model_copy(update=changes | {"between": ROUND.within}))
        for changes in ({"alone": alone}, {})
    )
    for part in ("forward", "backward"):
        assert getattr(step, part) == pytest.approx(share * getattr(crowded, part), rel=1e-6)


def test_tensor_parallel_ranks_divide_the_work_and_the_segments_attention():
    run = planned("base", 2, "batch.micro=32", "layout.tensor_parallel=2")
    whole, halves = step_time(planned("base", 1), planned("base", 1).stages[0], ROUND), run.stages[0]
    assert step_time(run, halves, ROUND).forward == pytest.approx(whole.forward / 2, rel=0.01)
    (row, *_), _ = mixing(halves)
    (segment, *_), _ = mixing(halves, segment=32)
    assert segment.flops == pytest.approx(row.flops / 4) and segment.length == 32


@pytest.mark.parametrize(
    ("kind", "rounds"), [("all-reduce", 14 / 8), ("all-gather", 7 / 8), ("reduce-scatter", 7 / 8), ("all-to-all", 1)]
)
def test_a_message_takes_its_bytes_over_the_bus_bandwidth(kind, rounds):
    run = planned("base", 8)
    step = Step(run, run.stages[0], ROUND, None)
    assert step.seconds_of(Message(kind, "data", 10**9, "update")) == pytest.approx(rounds)


def test_a_rate_is_measured_at_its_point_and_between_the_others():
    points = (((256.0, 64.0), 10.0), ((4096.0, 64.0), 40.0))
    assert interpolated(points, (256, 64)) == 10
    assert interpolated(points, (1024, 64)) == pytest.approx(20)  # half way in powers of two: the geometric mean
    assert 10 < interpolated(points, (1, 1)) < interpolated(points, (10**6, 10**4)) < 40


MORE = {
    "layers": ["model.layers=13"],
    "width": ["model.ffn=4096"],
    "rows": ["batch.global=512"],
    "dropout": ["model.hidden_dropout=0.1"],
    "recomputation": ["recompute=true"],
    "LAMB": ["optimizer.name=lamb"],
    "no division of the optimizer": ["deepspeed=ds_configs/zero0.json"],
    "more micro-batches of fewer rows": ["batch.micro=8"],
}


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
@pytest.mark.parametrize("machine", ["h100", "a100-80gb"])
def test_more_takes_longer(machine, more):
    given = ("batch.micro=32", "model.hidden_dropout=0", "model.attention_dropout=0", "compile=false")
    loaded = load_machine(machine)
    less, longer = (planned("base", 8, *given, *overrides) for overrides in ((), more))
    assert step_time(longer, longer.stages[0], loaded).seconds > step_time(less, less.stages[0], loaded).seconds


def cast_by_the_model(stage: ResolvedStage) -> list[int]:
    """Elements, in the forward and in the backward pass of a micro-batch."""
    config, cast, numels = stage.config, fp8.cast, []

    def casting(matrix: Tensor, dtype: torch.dtype) -> fp8.Scaled:
        numels.append(matrix.numel())
        return cast(matrix, dtype)

    model = build(config, dtype=torch.float32).train()
    multiply_in_fp8(model.blocks)
    model.recompute = stage.recompute
    ids = torch.zeros(stage.micro_batch, stage.sequence, dtype=torch.int64)
    with patch.object(fp8, "cast", casting):
        loss = model(Batch(ids, torch.arange(2), torch.zeros(2, dtype=torch.int64))).loss
        forward = sum(numels)
        loss.backward()
    return [forward, sum(numels) - forward]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("recompute=true",),
        ("model.low_rank={feedforward.input: 16}", "model.norm=pre", "model.frozen_layers=1"),
        ("model.sharing=1",),
    ],
)
def test_what_is_cast_to_fp8_is_counted(overrides):
    shape = "model={layers: 2, hidden: 32, heads: 2, ffn: 64, vocab_size: 100, max_positions: 64, sentence_head: false}"
    run = planned("base", 1, shape, "data.sentence_pairs=none", "sequence=64", "batch.global=4", "fp8=true", *overrides)
    stage = run.stages[0]
    operands, gradients, again = casts_of(stage, fused=False)
    assert [operands, gradients + again + stage.recompute * operands] == cast_by_the_model(stage)


def test_a_compiled_block_casts_once_what_is_the_same():
    """Entries among which it looks for the largest: of the input of query, key and value once, and in the backward pass
    of gradients alone, since it keeps the scales."""
    shape = "model={layers: 1, hidden: 32, heads: 2, ffn: 64, vocab_size: 100, max_positions: 64}"
    no_dropout = ("model.hidden_dropout=0", "model.attention_dropout=0")
    run = planned("base", 1, shape, *no_dropout, "sequence=64", "batch.global=4", "fp8=true")
    stage, found = run.stages[0], []

    def looking(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        of = [node.args[0].meta["val"].numel() for node in graph.graph.nodes if "amax" in str(node.target)]
        found.append(sum(of))
        return make_boxed_func(graph.forward)

    block = build(stage.config, dtype=torch.float32).train().blocks[0]
    multiply_in_fp8(block)
    x = torch.randn(stage.micro_batch, stage.sequence, 32, requires_grad=True)
    partition = min_cut_rematerialization_partition  # that of torch.compile
    aot_module(block, fw_compiler=looking, bw_compiler=looking, partition_fn=partition)(x, None).sum().backward()
    casts = casts_of(stage, fused=True)
    assert found == [casts.operands, casts.gradients]


def test_fp8_speeds_up_the_products_of_blocks_and_casts_their_operands():
    """At twice the rate and with no memory to wait for, the products of the blocks take half as long."""
    fast = Arithmetic(products=[(1024, 1024, 1024, 2)])
    machine = ROUND.model_copy(update={"arithmetic": {**ROUND.arithmetic, "fp8": fast}})
    with_fp8, without = (planned("large", 1, "batch.micro=32", f"fp8={asked}") for asked in ("true", "false"))
    quick, slow = (step_time(run, run.stages[0], machine) for run in (with_fp8, without))
    products = forward_products(without.stages[0])
    saved = sum(each.flops for each in products if each.in_block) / 2 * without.stages[0].accumulation / 1e12
    assert slow.forward - quick.forward == pytest.approx(saved, rel=1e-3)
    slower_memory = machine.model_copy(update={"passes": {"cast": 1000.0}})
    casts = sum(cast_bytes(with_fp8.stages[0], fused=True)) * with_fp8.stages[0].accumulation / 1e12
    assert step_time(with_fp8, with_fp8.stages[0], slower_memory).seconds - quick.seconds == pytest.approx(casts)
    with pytest.raises(UserError, match="no rates in fp8"):
        step_time(with_fp8, with_fp8.stages[0], ROUND)


def test_what_overlaps_is_hidden_but_for_its_last_bucket():
    run = planned("base", 8, "batch.micro=32", "deepspeed=ds_configs/zero1.json")
    apart = {"zero_optimization": {**run.stages[0].deepspeed["zero_optimization"], "overlap_comm": False}}
    overlapped = step_time(run, run.stages[0], load_machine("h100"))
    exposed = step_time(run, replace(run.stages[0], deepspeed=apart), load_machine("h100"))
    assert overlapped.hidden > 0 == exposed.hidden
    assert overlapped.communication + overlapped.hidden == pytest.approx(exposed.communication, rel=1e-3)
    assert overlapped.communication > 0


def test_a_run_takes_its_steps_and_what_lies_between_them():
    run = planned("bert2bert-base", 8)
    time = run_time(run, load_machine("h100"))
    assert [each.entry.seconds > 0 for each in time.stages] == [False] + [True] * (len(time.stages) - 1)
    steps = sum(each.num_steps * each.step.seconds for each in time.stages)
    assert steps < time.seconds < 1.1 * steps
    assert 0 < time.saving < 1
    assert time.rank_hours == pytest.approx(8 * time.seconds / 3600)
    assert time.price is None
    assert run_time(run, load_machine("h100").model_copy(update={"price": 2.0})).price == 2 * time.rank_hours


def test_a_step_of_muon_takes_longer_than_adamw_s_by_what_the_busiest_rank_multiplies():
    """And by what travels, which at one byte a nanosecond and one TFLOP a second hides behind it but for the ends."""
    given = ("batch.micro=32", "deepspeed=ds_configs/zero3.json")
    times = {name: planned("base", 8, *given, f"optimizer.name={name}") for name in ("adamw", "muon")}
    adamw, muon = (step_time(run, run.stages[0], ROUND) for run in times.values())
    stage = times["muon"].stages[0]
    of_muon = stage.optimizer.chosen.step_flops(stage.config)
    assert muon.optimizer - adamw.optimizer == pytest.approx(of_muon / 8 / 1e12, rel=0.05)
    travelling = (muon.communication + muon.hidden) - (adamw.communication + adamw.hidden)
    assert travelling == pytest.approx(2 * sum(stage.optimizer_work.exchanged) / 1e9, rel=1e-4)
    assert adamw.hidden < muon.hidden


def test_a_stage_that_brings_lamb_takes_as_long_as_a_run_of_it():
    of_stage = planned("base", 8, "stages.0.optimizer={name: lamb, lr: 0.002}")
    of_run = planned("base", 8, "optimizer={name: lamb, lr: 0.002}")
    assert step_time(of_stage, of_stage.stages[0], ROUND) == step_time(of_run, of_run.stages[0], ROUND)


def test_a_checkpoint_of_muon_holds_one_moment_of_matrices():
    adamw, muon = (planned("base", 1, f"optimizer.name={name}").stages[0] for name in ("adamw", "muon"))
    matrices = sum(spec.numel for spec in parameter_table(muon.config).values() if spec.is_layer_matrix)
    assert state_bytes(adamw) == 12 * num_parameters(adamw.config)
    assert state_bytes(muon) == state_bytes(adamw) - 4 * matrices


def test_a_message_has_the_rate_of_its_size():
    link = Link(latency_us=0, gb_per_second=3, of={"all-gather": [(2, 1.0), (128, 4.0)]})
    assert [link.rate("all-gather", num_bytes) for num_bytes in (2e6, 16e6, 128e6)] == [1e9, pytest.approx(2e9), 4e9]
    assert link.rate("all-reduce", 2e6) == 3e9


def test_ranks_wait_for_slower_ones_wherever_they_meet():
    """A tenth of work of 10 ms, a hundredth of 1 s: of the logarithms' mean in between."""
    host = Host(launch_us=0, waiting=[(0.01, 0.1), (1, 0.01)])
    uneven = ROUND.model_copy(update={"host": host})
    assert host.waiting_share(0.1) == pytest.approx(0.1**1.5)

    def waited(num_ranks: int, *overrides: str) -> tuple[float, float]:
        run = planned("base", num_ranks, *overrides)
        times = [step_time(run, run.stages[0], machine) for machine in (uneven, ROUND)]
        return times[0].seconds - times[1].seconds, times[1].forward + times[1].backward

    alone, _ = waited(1)
    assert alone == 0
    seconds, computing = waited(2, "deepspeed=ds_configs/zero1.json")
    assert seconds == pytest.approx(computing * host.waiting_share(computing))
    seconds, computing = waited(2, "deepspeed=ds_configs/zero1.json", "layout.tensor_parallel=2")
    num_meetings = 4 * 12 + 6  # in every layer, and for embeddings, scores and norms
    assert seconds == pytest.approx(computing * host.waiting_share(computing / num_meetings))
