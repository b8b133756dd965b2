"""What the DeepSpeed files leave to the device: overlap of communication and pinned memory. And no timer waits for it.

Overlap does no harm on a CPU.
"""

from dataclasses import replace

import pytest
import torch

from model.parallel.layout import ParallelLayout
from pretrain.engine import build
from pretrain.engine.build import EngineSettings, deepspeed_config
from pretrain.engine.config_file import load_engine_file
from pretrain.engine.zero import destroy
from pretrain.optim.adamw import adamw
from tests.support.harness import CONFIG, settings, start, train
from tests.support.workers import pool


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_shipped_files_leave_it_to_the_device(monkeypatch, device, stage):
    monkeypatch.setattr(build, "device", lambda: torch.device(device))
    file = load_engine_file(f"ds_configs/zero{stage}.json")
    own = {"zero_optimization": {"stage": stage, "overlap_comm": False}}
    plain = EngineSettings(ParallelLayout(data_parallel=2), 4, 1, "bf16", adamw((0.9, 0.999), 1e-6))
    filled, said = (
        deepspeed_config(replace(plain, deepspeed=config), 10, in_whole_blocks=True) for config in (file, own)
    )
    assert filled["zero_optimization"]["overlap_comm"] is (device == "cuda")
    assert said["zero_optimization"]["overlap_comm"] is False


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_offloaded_state_is_pinned_on_a_gpu(monkeypatch, device, stage):
    monkeypatch.setattr(build, "device", lambda: torch.device(device))
    plain = EngineSettings(ParallelLayout(), 4, 1, "bf16", adamw((0.9, 0.999), 1e-6))
    file = load_engine_file(f"ds_configs/zero{stage}_offload.json")
    own = {"zero_optimization": {"stage": stage, "offload_optimizer": {"device": "cpu", "pin_memory": False}}}
    filled, said = (
        deepspeed_config(replace(plain, deepspeed=config), 10, in_whole_blocks=True) for config in (file, own)
    )
    assert filled["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": device == "cuda"}
    assert said["zero_optimization"]["offload_optimizer"]["pin_memory"] is False


def losses(stage: int, overlap: bool) -> list[float]:
    engine = start(CONFIG, settings(1, stage, accumulation=2, overlap_comm=overlap))
    found = train(engine, 0, 4)
    destroy(engine)
    return found


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_on_a_cpu_it_changes_nothing(stage):
    assert pool(2).run(losses, stage, True) == pool(2).run(losses, stage, False)
