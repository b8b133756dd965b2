"""Whether a machine computes in bf16: what its CPU says, what the libraries are told, and what nvidia-smi lists."""

import pytest

from pretrain.launch import bf16

AMX = "flags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile"
ZEN_3 = "flags\t\t: fpu avx2 vaes"
ARM = "Features\t: fp asimd bf16 i8mm"
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


@pytest.mark.parametrize(
    ("flags", "limits", "does"),
    [
        (AMX, {}, True),
        (ARM, {}, True),
        (ZEN_3, {}, False),
        (AMX, {"ONEDNN_MAX_CPU_ISA": "avx2"}, False),
        (AMX, {"DNNL_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, False),
        (AMX, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
        (AMX, {"ATEN_CPU_CAPABILITY": "avx2"}, False),
        (AMX, {"ATEN_CPU_CAPABILITY": "avx512"}, True),
    ],
)
def test_a_cpu(monkeypatch, tmp_path, flags, limits, does):
    monkeypatch.setattr(bf16, "CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(flags + "\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in LIMITS:
        monkeypatch.setenv(name, limits.get(name, ""))
    assert bf16.computes_in_bf16() is does


@pytest.mark.parametrize(("listed", "do"), [("8.0\n9.0", True), ("9.0\n7.5", False), ("[N/A]", True)])
def test_gpus(monkeypatch, tmp_path, listed, do):
    monkeypatch.setattr(bf16, "CPU_INFO", tmp_path / "none")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat << END\n{listed}\nEND\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert bf16.computes_in_bf16() is do
