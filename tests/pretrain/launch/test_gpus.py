"""How many GPUs there are, from the variables or from nvidia-smi; and that no more ranks than that are started."""

import pytest

from model.errors import UserError
from pretrain.launch.gpus import check_ranks, count_gpus

TWO = ("GPU 0: NVIDIA H200 (UUID: GPU-1)", "GPU 1: NVIDIA H200 (UUID: GPU-2)")
DIVIDED = (
    "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d)",
    "  MIG 3g.20gb     Device  0: (UUID: MIG-c6)",
    "  MIG 3g.20gb     Device  1: (UUID: MIG-cb)",
)


@pytest.fixture(autouse=True)
def _nothing_is_said(monkeypatch):
    for name in ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        ("", 0),
        ("3", 1),
        ("0,2,5", 3),
        ("-1", 0),
        ("0,-1,1", 1),
        ("NoDevFiles", 0),
        ("GPU-8f, MIG-4a", 2),
        ("MIG-4a,MIG-4b", 1),  # CUDA shows a process one instance
    ],
)
def test_the_variable_counts(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == count


@pytest.mark.parametrize(
    ("listed", "count"),
    [
        (TWO, 2),
        (DIVIDED, 1),
        (("No devices were found",), 0),
        (("Failed to initialize NVML: Driver/library version mismatch", "NVML library version: 580.159"), 0),
    ],
)
def test_without_the_variable_nvidia_smi_is_asked(monkeypatch, tmp_path, listed, count):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus() == 0
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\ncat << END\n" + "\n".join(listed) + "\nEND\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert count_gpus() == count


def test_one_variable_of_deepspeed_decides_for_all(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert count_gpus() == 0


def test_more_ranks_than_gpus_are_refused_before_they_start(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    check_ranks(1)
    with pytest.raises(UserError, match="2 processes need a GPU each, and there is 1; start 1 .--nproc 1"):
        check_ranks(2)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    check_ranks(2)
