"""LAMB, LANS and StableAdamW against a reference in numpy written from the papers: 10 steps in float64, to 1e-12."""

import itertools
import math

import numpy as np
import pytest
import torch

from pretrain.optim import passes
from pretrain.optim.lamb.step import Lamb
from pretrain.optim.lans.step import Lans
from pretrain.optim.stableadamw.step import StableAdamW
from tests.support.optim_reference import Reference

SHAPES = {"matrix": (7, 5), "bias": (5,), "norm": (6,), "zero": (4, 3), "scalar": (1,)}
MATRICES = {"matrix", "zero"}
OPTIONS = dict(lr=0.03, betas=(0.9, 0.98), eps=1e-6)


def start(seed=0):
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape) * (name != "zero") for name, shape in SHAPES.items()}


def gradients(step):
    """Sizes that differ by orders of magnitude between parameters; the scalar's vanishes now and then."""
    generator = np.random.default_rng(100 + step)
    return {
        name: generator.normal(size=shape) * 10.0 ** (index - 2) * (name != "scalar" or step % 3 > 0)
        for index, (name, shape) in enumerate(SHAPES.items())
    }


def build(kind, values, decay, decayed, adapted, **options):
    """The optimizer over one group for each kind of treatment, and its parameters by name."""
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in values.items()}
    groups = [
        {"params": [parameter], "weight_decay": decay if name in decayed else 0.0, "adapt": name in adapted}
        for name, parameter in parameters.items()
    ]
    return kind(groups, **OPTIONS, **options), parameters


def step(optimizer, parameters, values, scale=1.0):
    for name, parameter in parameters.items():
        parameter.grad = torch.tensor(values[name]) * scale
    optimizer.step()


def assert_follows(optimizer, parameters, reference, advance):
    for number in range(10):
        step(optimizer, parameters, gradients(number))
        advance(gradients(number))
        for name, parameter in parameters.items():
            state = optimizer.state[parameter]
            for ours, theirs in (
                (parameter, reference.w),
                (state["exp_avg"], reference.m),
                (state["exp_avg_sq"], reference.v),
            ):
                np.testing.assert_allclose(ours.detach().numpy(), theirs[name], rtol=1e-12, atol=1e-14, err_msg=name)


TREATMENTS = list(itertools.product((0.0, 0.1), (MATRICES, set(SHAPES)), (MATRICES, set(SHAPES), set()), (True, False)))


@pytest.mark.parametrize(("decay", "decayed", "adapted", "bias_correction"), TREATMENTS)
@pytest.mark.parametrize("kind", [Lamb, Lans])
def test_the_formula(kind, decay, decayed, adapted, bias_correction):
    optimizer, parameters = build(kind, start(), decay, decayed, adapted, bias_correction=bias_correction)
    reference = Reference(start(), 0.03, 0.9, 0.98, 1e-6, decay, decayed, adapted, bias_correction)
    assert_follows(optimizer, parameters, reference, reference.lamb if kind is Lamb else reference.lans)


@pytest.mark.parametrize("decayed", [MATRICES, set(SHAPES)])
def test_the_formula_of_stableadamw(decayed):
    """Gradients that grow tenfold at once, which is what the clipping is for."""
    optimizer, parameters = build(StableAdamW, start(), 0.1, decayed, set())
    reference = Reference(start(), 0.03, 0.9, 0.98, 1e-6, 0.1, decayed, set())
    for number in range(10):
        sizes = {name: gradient * (10 if number == 6 else 1) for name, gradient in gradients(number).items()}
        step(optimizer, parameters, sizes)
        reference.stableadamw(sizes)
        for name, parameter in parameters.items():
            np.testing.assert_allclose(parameter.detach().numpy(), reference.w[name], rtol=1e-12, atol=1e-14)


def test_a_burst_of_gradients_moves_stableadamw_less_than_adamw():
    """Its decay is clipped with it; elsewhere the two are the same."""
    stable, ours = build(StableAdamW, start(), 0.1, MATRICES, set())
    plain = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start().items()}
    adamw = torch.optim.AdamW(
        [{"params": [each], "weight_decay": 0.1 if name in MATRICES else 0.0} for name, each in plain.items()],
        **OPTIONS,
    )
    for number in range(3):
        before = {name: (ours[name].detach().clone(), plain[name].detach().clone()) for name in SHAPES}
        scale = 100.0 if number == 2 else 1.0
        step(stable, ours, gradients(0), scale)
        step(adamw, plain, gradients(0), scale)
        for name in SHAPES:
            moves = [
                (after[name].detach() - old).norm() for after, old in zip((ours, plain), before[name], strict=True)
            ]
            if number == 2 and gradients(0)[name].any():
                assert moves[0] < 0.6 * moves[1]
            else:
                torch.testing.assert_close(*moves, rtol=1e-6, atol=1e-12)


def test_trust_bounds():
    optimizer, parameters = build(Lamb, start(), 0.1, MATRICES, MATRICES, trust_bounds=(0.2, 0.5))
    reference = Reference(start(), 0.03, 0.9, 0.98, 1e-6, 0.1, MATRICES, MATRICES)
    assert_follows(optimizer, parameters, reference, lambda values: reference.lamb(values, 0.2, 0.5))


@pytest.mark.parametrize(
    ("when", "divisor"), [("always", lambda norm: norm), ("above_one", lambda norm: max(norm, 1.0))]
)
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_prenormalize(when, divisor, scale):
    optimizer, parameters = build(Lamb, start(), 0.1, MATRICES, MATRICES, prenormalize=when)
    reference = Reference(start(), 0.03, 0.9, 0.98, 1e-6, 0.1, MATRICES, MATRICES)
    for number in range(10):
        step(optimizer, parameters, gradients(number), scale)
        reference.lamb({name: g * scale for name, g in gradients(number).items()}, divide_by_global_norm=divisor)
    for name, parameter in parameters.items():
        np.testing.assert_allclose(parameter.detach().numpy(), reference.w[name], rtol=1e-12, atol=1e-14)


def test_a_thousandfold_loss_leaves_lans_as_it_is_and_one_moves_lamb():
    def trajectory(kind, scale_of):
        optimizer, parameters = build(kind, start(), 0.1, MATRICES, set(SHAPES))
        for number in range(10):
            step(optimizer, parameters, gradients(number), scale_of(number))
        return torch.cat([parameter.detach().flatten() for parameter in parameters.values()])

    plain = trajectory(Lans, lambda number: 1.0)
    torch.testing.assert_close(trajectory(Lans, lambda number: 1000.0), plain, rtol=1e-12, atol=1e-14)
    outlier = lambda number: 1000.0 if number == 4 else 1.0  # noqa: E731
    torch.testing.assert_close(trajectory(Lans, outlier), plain, rtol=1e-12, atol=1e-14)
    assert (trajectory(Lamb, outlier) - trajectory(Lamb, lambda number: 1.0)).abs().max() > 1e-3


def test_a_lans_step_is_at_most_the_learning_rate_times_the_weight():
    optimizer, parameters = build(Lans, start(), 0.1, MATRICES, {"matrix", "bias", "norm"})
    for number in range(10):
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        step(optimizer, parameters, gradients(number))
        for name in ("matrix", "bias", "norm"):
            assert (parameters[name] - before[name]).norm() <= 0.03 * before[name].norm() * (1 + 1e-12)


@pytest.mark.parametrize("kind", [Lamb, Lans, StableAdamW])
def test_the_multi_tensor_form_is_the_same_arithmetic(kind, monkeypatch):
    """What a GPU runs, run on the CPU."""
    one, parameters_one = build(kind, start(), 0.1, MATRICES, MATRICES)
    many, parameters_many = build(kind, start(), 0.1, MATRICES, MATRICES)
    for number in range(5):
        step(one, parameters_one, gradients(number))
        with monkeypatch.context() as patch:
            patch.setattr(passes, "_multi_tensor", lambda parts: True)
            step(many, parameters_many, gradients(number))
    for name in SHAPES:
        torch.testing.assert_close(parameters_many[name], parameters_one[name], rtol=1e-12, atol=1e-14)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [Lamb, Lans, StableAdamW])
def test_a_gpu_steps_as_the_cpu_does(kind):
    """In fp32, in multi-tensor operations, and in apex's kernel for the norms where it is installed."""
    found = []
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(n, generator=generator).to(device)) for n in (100_000, 33, 1)]
        optimizer = kind(parameters, **OPTIONS, weight_decay=0.1)
        for _ in range(5):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.numel(), generator=generator).to(device)
            optimizer.step()
        found.append(torch.cat([parameter.detach().cpu() for parameter in parameters]))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [Lamb, Lans, StableAdamW])
def test_chunks_do_not_change_the_result(kind, monkeypatch):
    whole, parameters_whole = build(kind, start(), 0.1, MATRICES, MATRICES)
    cut, parameters_cut = build(kind, start(), 0.1, MATRICES, MATRICES)
    for number in range(5):
        step(whole, parameters_whole, gradients(number))
        with monkeypatch.context() as patch:
            patch.setattr(passes, "CHUNK", 4)
            step(cut, parameters_cut, gradients(number))
    for name in SHAPES:
        torch.testing.assert_close(parameters_cut[name], parameters_whole[name], rtol=1e-12, atol=1e-14)


@pytest.mark.skipif(not passes.can_compile(), reason="needs a C++ compiler")
@pytest.mark.parametrize("kind", [Lamb, Lans, StableAdamW])
def test_the_compiled_form_is_the_same_arithmetic(kind, monkeypatch):
    """Also on parts that start anywhere in memory, without compiling again for every size."""
    monkeypatch.setattr(passes, "COMPILE_FROM", 1)
    monkeypatch.setattr(passes, "CHUNK", 16)
    torch._dynamo.utils.counters.clear()
    sizes = (1000, 257, 64, 33, 31)
    generator = torch.Generator().manual_seed(0)
    start_values = [torch.randn(size + 3, generator=generator)[3:] for size in sizes]
    results = []
    for compiled in (False, True):
        parameters = [torch.nn.Parameter(value.clone()) for value in start_values]
        optimizer = kind(parameters, **OPTIONS, compiled=compiled)
        for number in range(4):
            generator.manual_seed(number)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.numel() + 5, generator=generator)[5:]
            optimizer.step()
        results.append(torch.cat([parameter.detach() for parameter in parameters]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == (3 if kind is Lans else 1)


def test_the_trust_ratio_of_lamb_is_unbounded_by_default():
    assert Lamb([torch.nn.Parameter(torch.ones(2))]).trust_bounds == (0.0, math.inf)
