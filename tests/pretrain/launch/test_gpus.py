"""How many GPUs there are, from the variable or from nvidia-smi."""

import pytest

from pretrain.launch.gpus import count_gpus

SMI = "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H200 (UUID: GPU-2)'\n"


@pytest.mark.parametrize(
    ("visible", "count"),
    [("", 0), ("3", 1), ("0,2,5", 3), ("-1", 0), ("0,-1,1", 1), ("NoDevFiles", 0), ("GPU-8f, MIG-4a", 2)],
)
def test_the_variable_counts(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == count


def test_without_the_variable_nvidia_smi_is_asked(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus() == 0
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert count_gpus() == 2
