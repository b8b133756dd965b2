"""Compiled blocks compute what the others do, through changes of shape and stops, on every kind of engine."""

import gc
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition

from growth.operators import make_operator, shape_change
from model.errors import UserError
from model.loss import AS_A_WHOLE, IN_CHUNKS, Passes, vocab_parallel_cross_entropy
from model.parallel.tensor import TensorParallel
from pretrain.engine import compilation
from pretrain.engine.compilation import compile_blocks, compiles, op_by_op
from pretrain.engine.move import move
from pretrain.engine.zero import destroy
from pretrain.training.train import train as train_recipe
from tests.support.harness import CONFIG, settings, start, train
from tests.support.running import build, layout_of, random_batch, small_config
from tests.support.tiny import metrics, same_bits, tiny_corpus, tiny_recipe, train_until
from tests.support.workers import pool

CPU, GPU = torch.device("cpu"), torch.device("cuda")
COLUMNS = 1024


@pytest.mark.parametrize(
    ("choice", "device", "missing", "expected"),
    [
        ("auto", GPU, None, True),
        ("auto", GPU, "a C compiler", False),
        ("auto", CPU, None, False),
        (True, CPU, None, True),
        (True, GPU, None, True),
        (False, GPU, None, False),
    ],
)
def test_choice(monkeypatch, choice, device, missing, expected):
    monkeypatch.setattr(compilation, "missing_for", lambda device_type: missing)
    assert compiles(choice, device) is expected


def test_true_without_a_compiler_is_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"compile true needs a C\+\+ compiler .*; install it, or set compile to auto"):
        compiles(True, CPU)


def test_blocks_that_are_called_in_parts_are_not_compiled():
    local, dropped = {"local_attention": {"window": 6, "global_every": 2}}, {"norm": "pre", "layer_drop": {"keep": 0.5}}
    cases = (({}, 2), (local, 2), (dropped, 0), (local | dropped, 0), ({"sharing": 1}, 1))
    for changes, count in cases:
        model = build(small_config(**changes))
        compile_blocks(model)
        assert sum("forward" in vars(block) for block in model.blocks) == count


def gradients(model) -> dict[str, torch.Tensor]:
    output = model(random_batch(model.config, "packed").to(model.mlm.bias.device))
    output.loss.backward()
    return {"loss": output.loss.detach()} | {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_compiled_model_is_the_model(device):
    """By torch's own compiler. (The tests below only trace: that shows what it may compile, and takes a second.)"""
    if missing := compilation.missing_for(device):
        pytest.skip(f"there is no {missing}")
    config = small_config(layers=1)
    plain, compiled = (build(config, dtype=torch.float32).to(device).train() for _ in range(2))
    compile_blocks(compiled)
    expected, found = gradients(plain), gradients(compiled)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_local_layers_are_compiled_with_windows_by_blocks():
    config = small_config(local_attention={"window": 6, "global_every": 2}, positions="rotary")
    plain, compiled = (build(config).train() for _ in range(2))
    with patch("torch.compile", partial(torch.compile, backend="aot_eager")):
        compile_blocks(compiled)
        expected, found = gradients(plain), gradients(compiled)
    assert len(compiled.blocks) == 2 and all("forward" in vars(block) for block in compiled.blocks)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12)


def test_a_step_taken_again_under_watch_shows_the_parts_of_a_block():
    """As the guard against non-finite numbers takes it."""
    model = build(small_config(layers=1)).train()
    compile_blocks(model)
    seen = []
    model.blocks[0].feedforward.input.register_forward_hook(lambda *arguments: seen.append(model.loss_passes))
    model.loss_passes = AS_A_WHOLE  # as on a GPU
    with op_by_op(model):
        model(random_batch(model.config))
    assert seen == [IN_CHUNKS] and model.loss_passes is AS_A_WHOLE


def loss_and_gradient(passes: Passes, num_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(num_rows, COLUMNS, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(COLUMNS - 3, (num_rows,), generator=generator)
    loss, _ = vocab_parallel_cross_entropy(scores, targets, COLUMNS - 3, TensorParallel(), passes)
    loss.mean().backward()
    return loss.detach(), scores.grad


def test_the_loss_of_any_number_of_tokens_takes_the_same_graphs():
    with patch("torch.compile", partial(torch.compile, backend="aot_eager")):
        torch.compiler.reset()
        compiled = compilation.compiled_loss()
    counters.clear()
    for num_rows in range(5, 25):
        found = loss_and_gradient(compiled, num_rows, seed=num_rows)
        torch.testing.assert_close(found, loss_and_gradient(IN_CHUNKS, num_rows, num_rows), rtol=0.01, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 4, "of each pass a static one, and one for all numbers"
    assert not counters["graph_break"]


def graphs_of_a_divided_block() -> tuple[dict[str, int], dict[str, int], int, int]:
    """All-gathers and products of linear layers in the compiled passes; graphs and breaks. On two ranks, which divide
    the tokens."""
    gathers, products = ({"forward": 0, "backward": 0} for _ in range(2))

    def counting(which: str) -> Any:
        def compiler(module: torch.fx.GraphModule, inputs: Any) -> Any:
            targets = [str(node.target) for node in module.graph.nodes]
            gathers[which] += sum("all_gather" in target for target in targets)
            products[which] += sum(target in ("aten.mm.default", "aten.addmm.default") for target in targets)
            return make_boxed_func(module.forward)

        return compiler

    both = dict(fw_compiler=counting("forward"), bw_compiler=counting("backward"))
    backend = aot_autograd(**both, partition_fn=min_cut_rematerialization_partition)
    tp = replace(layout_of(2).install(), sequence_parallel=True)
    model = build(small_config(layers=1, attention_dropout=0.1), tp, torch.float32).train()
    with (
        patch("torch.compile", partial(torch.compile, backend=backend)),
        patch("model.attention.dropout", torch.nn.functional.dropout),  # a GPU's
    ):
        compile_blocks(model)
        counters.clear()
        model(random_batch(model.config)).loss.backward()
    return gathers, products, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def test_a_block_whose_tokens_are_divided_compiles_whole():
    """It gathers before each of its two parts; backward the gradients of both, and, to keep less, both inputs again,
    but no product is computed twice: each of six layers has two gradients."""
    for found in pool(2).run(graphs_of_a_divided_block):
        assert found == ({"forward": 2, "backward": 4}, {"forward": 6, "backward": 12}, 1, 0)


def losses(tp: int, stage: int, compile: bool, changes: dict) -> tuple[list[float], bool]:
    """Two steps, a change of shape, two more; and whether the first engine outlived its end."""
    chosen = replace(settings(tp, stage), compile=compile, **changes)
    config = CONFIG.replace(layers=1, attention_dropout=0.1 * (tp > 1))
    with patch("torch.compile", partial(torch.compile, backend="aot_eager")):
        engines = [start(config, chosen)]
        torch.manual_seed(3)
        found = train(engines[0], 0, 2)
        old = weakref.ref(engines[0].module)
        operators = [make_operator("stack", {}), make_operator("widen", {})]
        wanted = {"layers": 2, "ffn": 80}
        engine, _ = move(engines.pop(), chosen, lambda state: shape_change(config, operators, wanted))
        gc.collect()
        leaked = old() is not None
        found += train(engine, 2, 2)
        destroy(engine)
    return found, leaked


@pytest.mark.parametrize(("tp", "stage", "changes"), [(1, 3, {}), (2, 1, {"sequence_parallel": True})])
def test_through_a_change_of_shape(tp, stage, changes):
    (expected, _), _ = pool(2).run(losses, tp, stage, False, changes)
    for found, leaked in pool(2).run(losses, tp, stage, True, changes):
        assert found == pytest.approx(expected, rel=1e-6)
        assert not leaked


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("tiny")).directory


def traced(run, *arguments) -> None:
    with patch("torch.compile", partial(torch.compile, backend="aot_eager")):
        run(*arguments)


def test_a_stopped_run_goes_on_to_the_same_bits(corpus, tmp_path):
    model = dict(layers=1, hidden=32, heads=4, ffn=64, max_positions=32, hidden_dropout=0, attention_dropout=0)
    stages = [{"name": "only", "steps": 4}]
    recipe = tiny_recipe(corpus, compile=True, model=model, stages=stages, validation={"rows": 8})
    pool(1).run(traced, train_recipe, recipe, tmp_path / "whole")
    pool(1).run(traced, train_until, recipe, tmp_path / "parts", 2)
    pool(1).run(traced, train_recipe, recipe, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert same_bits(tmp_path / "parts", tmp_path / "whole")
