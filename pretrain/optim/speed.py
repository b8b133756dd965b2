"""How long a step with clipping takes compared with torch's fused AdamW: all optimizers take turns in one process.

python -m pretrain.optim.speed --preset base --rounds 15
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import tyro
from torch import nn
from torch.nn.utils import clip_grad_norm_

from model.config import BertConfig
from model.parameters import parameter_table
from pretrain.optim.lamb.step import Lamb
from pretrain.optim.lans.step import Lans
from pretrain.optim.passes import can_compile
from pretrain.optim.stableadamw.step import StableAdamW


def measure(
    preset: str = "base", rounds: int = 15, device: str = "cuda" if torch.cuda.is_available() else "cpu"
) -> None:
    """Prints milliseconds of one step (median, and the fastest and slowest) and the median ratio to AdamW.

    preset: the model whose parameters are stepped on, whole, in fp32.
    rounds: how often every optimizer steps, after two rounds that are not counted.
    """
    config = BertConfig.preset(preset)
    parameters = [
        nn.Parameter(0.02 * torch.randn(spec.shape, device=device)) for spec in parameter_table(config).values()
    ]
    for parameter in parameters:
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(parameters, lr=1e-6, fused=True),
        "lamb": Lamb(parameters, lr=1e-6),
        "lans": Lans(parameters, lr=1e-6),
        "stableadamw": StableAdamW(parameters, lr=1e-6),
    }
    if device == "cpu" and can_compile():
        optimizers["lamb, not compiled"] = Lamb(parameters, lr=1e-6, compiled=False)
        optimizers["lans, not compiled"] = Lans(parameters, lr=1e-6, compiled=False)
        optimizers["stableadamw, not compiled"] = StableAdamW(parameters, lr=1e-6, compiled=False)
    for optimizer in optimizers.values():
        optimizer.state = optimizers["adamw"].state  # all keep the same two moments: once in memory is enough

    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for number in range(rounds + 2):
        for name, optimizer in optimizers.items():
            seconds = _seconds(partial(_step, parameters, optimizer), device)
            if number >= 2:
                times[name].append(seconds)

    count = sum(parameter.numel() for parameter in parameters)
    print(f"{count / 1e6:.1f} M parameters, {torch.get_num_threads()} thread(s), {device}, {rounds} rounds")
    print(f"{'step with clipping':26} {'ms':>8} {'fastest':>8} {'slowest':>8} {'x adamw':>8}")
    for name, own in times.items():
        ratio = statistics.median(mine / theirs for mine, theirs in zip(own, times["adamw"], strict=True))
        figures = [1000 * value for value in (statistics.median(own), min(own), max(own))]
        print(f"{name:26} " + " ".join(f"{figure:8.1f}" for figure in figures) + f" {ratio:8.2f}")


def _step(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    clip_grad_norm_(parameters, 1.0, foreach=parameters[0].is_cuda)
    optimizer.step()


def _seconds(function: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    tyro.cli(measure)
