"""Kernels for runs of tokens: chosen where they can do it, and given what makes them equal to attention with a mask."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from model import attention_kernels
from model.attention_kernels import KERNELS, Asked, Sight, flash_attn, flash_attn_3, kernel_for_runs, torch_varlen
from model.batch import Batch, Runs
from model.config import BertConfig
from pretrain.engine.deterministic import deterministic
from tests.support.running import build, random_batch, small_config
from tests.support.variants import VARIANTS

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("installed", "device", "dtype", "head_dim", "dropout", "compute", "expected"),
    [
        (True, GPU, BF16, 64, 0.1, (9, 0), flash_attn),
        (True, GPU, torch.float16, 64, 0.0, (8, 0), flash_attn),
        (False, GPU, BF16, 64, 0.0, (9, 0), torch_varlen),
        (False, GPU, BF16, 64, 0.1, (9, 0), None),
        (True, GPU, FP32, 64, 0.0, (9, 0), None),
        (True, GPU, BF16, 512, 0.0, (9, 0), None),
        (True, GPU, BF16, 36, 0.0, (9, 0), None),
        (True, GPU, BF16, 64, 0.0, (7, 5), None),
        (True, CPU, BF16, 64, 0.0, (9, 0), None),
    ],
)
def test_choice(monkeypatch, installed, device, dtype, head_dim, dropout, compute, expected):
    monkeypatch.setattr(attention_kernels, "flash_attn_varlen_func", (lambda: None) if installed else None)
    monkeypatch.setattr(attention_kernels, "flash_attn_3_varlen_func", None)
    monkeypatch.setattr(attention_kernels, "capability", lambda device: compute)
    assert kernel_for_runs(device, dtype, head_dim, dropout) is expected


@pytest.mark.parametrize(
    ("dropout", "compute", "fixed_order", "expected"),
    [
        (0.0, (9, 0), False, flash_attn_3),
        (0.1, (9, 0), False, flash_attn),
        (0.0, (9, 0), True, flash_attn),
        (0.0, (8, 9), False, flash_attn),
        (0.0, (10, 0), False, flash_attn),
    ],
)
def test_flash_attn_3_needs_hopper_no_dropout_and_no_order(monkeypatch, dropout, compute, fixed_order, expected):
    for name in ("flash_attn_varlen_func", "flash_attn_3_varlen_func"):
        monkeypatch.setattr(attention_kernels, name, lambda: None)
    monkeypatch.setattr(attention_kernels, "capability", lambda device: compute)
    with deterministic(fixed_order):
        assert kernel_for_runs(GPU, BF16, 64, dropout) is expected


def test_a_preferred_kernel_is_taken_where_it_can_do_it(monkeypatch):
    monkeypatch.setattr(attention_kernels, "flash_attn_varlen_func", lambda: None)
    monkeypatch.setattr(attention_kernels, "capability", lambda device: (9, 0))
    assert kernel_for_runs(GPU, BF16, 64, 0.0, "varlen") is torch_varlen
    assert kernel_for_runs(GPU, BF16, 64, 0.1, "varlen") is flash_attn
    assert kernel_for_runs(GPU, BF16, 64, 0.0, "cudnn") is None, "which takes a mask"
    assert kernel_for_runs(GPU, FP32, 64, 0.0, "cudnn") is None, "nor can another do it"


@pytest.mark.parametrize("name", ["fused", "cudnn"])
@pytest.mark.parametrize("layout", ["padded", "full"])
def test_kernels_for_rows_give_what_products_give(monkeypatch, name, layout):
    """cuDNN is not on a CPU: torch takes the next one."""
    config, seen = small_config(), []
    batch, fused = random_batch(config, layout), F.scaled_dot_product_attention
    expected = build(config)(batch).loss.item()
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *given: seen.append(given) or fused(*given))
    model = build(config)
    model.prefer_kernel(name, name)
    assert model(batch).loss.item() == pytest.approx(expected, rel=1e-12)
    assert len(seen) == config.layers


def test_runs_are_the_segments_and_the_padding_of_each_row():
    segments = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1], [1, 2, 3, 0, 0, 0]])
    runs = Runs.of(segments)
    assert runs.starts.tolist() == [0, 2, 5, 6, 12, 13, 14, 15, 18]
    assert runs.starts.dtype == torch.int32
    assert runs.longest == 6


def one_by_one(query, key, value, runs: Runs, dropout: float, sight: Sight) -> torch.Tensor:
    """What such a kernel computes, run after run. [T, n, d]"""
    assert dropout == 0
    assert runs.longest == max(runs.starts.diff().tolist())
    context = []
    for start, end in zip(runs.starts[:-1].tolist(), runs.starts[1:].tolist(), strict=True):
        q, k, v = (x[start:end].transpose(0, 1) for x in (query, key, value))  # [n, t, d]
        place = torch.arange(end - start)
        before, after = (length if length >= 0 else len(place) for length in sight)
        distance = place - place.unsqueeze(1)
        is_far = (distance < -before) | (distance > after)
        scores = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(is_far, -torch.inf)
        probabilities = scores.softmax(-1)
        context.append((probabilities @ v).transpose(0, 1))
    return torch.cat(context)


def loss_and_gradients(config: BertConfig, batch: Batch) -> dict[str, torch.Tensor]:
    model = build(config).train()
    model.begin_step(step=300, steps_masked=2000, seed=1)
    loss = model(batch).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


OF_OTHER_RUNS = {name: changes for name, changes in VARIANTS.items() if "token_dropping" in changes}
"""Some layers take the runs of fewer tokens, one takes a mask: tests/model/variants/test_token_dropping.py."""
CASES = {"plain": {}, "pre": {"norm": "pre"}} | {name: VARIANTS[name] for name in VARIANTS if name not in OF_OTHER_RUNS}


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_runs_give_what_a_mask_gives(monkeypatch, changes, layout):
    check_runs(monkeypatch, small_config(**changes), random_batch(small_config(**changes), layout))


CAUSAL = {
    "plain": {},
    "rotary": {"positions": "rotary"},
    "local": {"local_attention": {"window": 4, "global_every": 2}},
}


@pytest.mark.parametrize("layout", ["packed", "full"])
@pytest.mark.parametrize("changes", CAUSAL.values(), ids=CAUSAL)
def test_runs_of_causal_rows_give_what_a_mask_gives(monkeypatch, changes, layout):
    config = small_config(**changes)
    check_runs(monkeypatch, config, replace(random_batch(config, layout), causal=True))


def check_runs(monkeypatch, config: BertConfig, batch: Batch) -> None:
    expected = loss_and_gradients(config, batch)
    calls = []

    def kernel(*arguments):
        calls.append(arguments)
        return one_by_one(*arguments)

    monkeypatch.setattr(attention_kernels, "kernel_for_runs", lambda *arguments: kernel)
    segments = torch.ones_like(batch.ids) if batch.segments is None else batch.segments
    found = loss_and_gradients(config, replace(batch, runs=Runs.of(segments)))
    assert len(calls) == (config.layers if config.attends_over_runs else 0)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("as_first_built", [False, True])
@pytest.mark.parametrize("sight", [(-1, -1), (-1, 0), (2, 2)])
def test_flash_attn_3_takes_runs_and_a_window(monkeypatch, sight, as_first_built):
    def stand_in(query, key, value, starts, starts_of_keys, longest, longest_of_keys, *, window_size):
        assert torch.equal(starts, starts_of_keys) and longest == longest_of_keys
        context = one_by_one(query, key, value, Runs(starts, longest), 0.0, window_size)
        return (context, None) if as_first_built else context

    monkeypatch.setattr(attention_kernels, "flash_attn_3_varlen_func", stand_in)
    given = *torch.randn(3, 9, 2, 8), Runs(torch.tensor([0, 4, 9], dtype=torch.int32), 5), 0.0, sight
    assert torch.equal(flash_attn_3(*given), one_by_one(*given))


def test_only_what_needs_a_map_or_divides_rows_keeps_the_mask():
    reasons = {"light_layers", "pool_window", "attention", "layer_drop", "sub_models"}
    for changes in CASES.values():
        assert small_config(**changes).attends_over_runs != bool(reasons & changes.keys()), changes


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [torch_varlen, flash_attn, flash_attn_3])
@pytest.mark.parametrize("layout", ["packed", "padded", "full"])
@pytest.mark.parametrize("local", [None, {"window": 4, "global_every": 2}], ids=["global", "local"])
@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
def test_on_a_gpu(monkeypatch, kernel, layout, local, causal):
    """In bf16, compared with the mask in fp32, up to bf16 rounding."""
    name = next(name for name, known in KERNELS.items() if known.over_runs is kernel)
    if missing := KERNELS[name].obstacle(Asked(GPU, BF16, 16, 0.0)):
        pytest.skip(f"{name} {missing}")
    config = small_config(hidden=64, heads=4, ffn=128, local_attention=local)
    batch = replace(random_batch(config, layout), causal=causal).to("cuda")
    assert (batch.runs is None) == (layout == "full" and not causal)
    expected = build(config, dtype=torch.float32).to("cuda")(batch).loss
    monkeypatch.setattr(attention_kernels, "kernel_for_runs", lambda *arguments: kernel)
    loss = build(config, dtype=torch.bfloat16).to("cuda").train()(batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.03)


@pytest.mark.gpu
def test_attention_dropout_stays_correct_on_a_gpu():
    """By flash-attn, or with a mask: torch's kernel for runs has none."""
    config = small_config(hidden=64, heads=4, ffn=128, attention_dropout=0.5)
    model = build(config, dtype=torch.bfloat16).to("cuda").train()
    batch = random_batch(config, "packed").to("cuda")
    torch.manual_seed(1)
    first, second = model(batch).loss.item(), model(batch).loss.item()
    torch.manual_seed(1)
    assert model(batch).loss.item() == first != second
