"""Whether this machine computes in bf16, without importing torch."""

import os
import shutil
import subprocess
from pathlib import Path

from pretrain.launch.gpus import count_gpus

CPU_INFO = Path("/proc/cpuinfo")
CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Intel's and AMD's instructions, Intel's tiles, and Arm's."""
ONEDNN_WITHOUT = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""Values of ONEDNN_MAX_CPU_ISA that keep oneDNN from all of these."""
ATEN_WITHOUT = {"default", "avx2"}
"""Values of ATEN_CPU_CAPABILITY that keep torch's own kernels from them."""
FIRST_CAPABILITY = 8.0
"""Of CUDA devices: Ampere, the first with units for bf16."""


def computes_in_bf16() -> bool:
    """Whether its GPUs do, or without any its CPU. Elsewhere bf16 is emulated, and far slower than fp32."""
    return gpus_do() if count_gpus() else cpu_does()


def gpus_do() -> bool:
    """Whether all of nvidia-smi's do; GPUs that it does not list are taken for ones that do."""
    if shutil.which("nvidia-smi") is None:
        return True
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout.split()
    capabilities = [float(word) for word in listed if word.replace(".", "", 1).isdecimal()]
    return min(capabilities, default=FIRST_CAPABILITY) >= FIRST_CAPABILITY


def cpu_does() -> bool:
    """Whether it has the instructions, and neither oneDNN nor torch is told to do without."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in ONEDNN_WITHOUT or os.environ.get("ATEN_CPU_CAPABILITY") in ATEN_WITHOUT:
        return False
    return CPU_INFO.is_file() and not CPU_FLAGS.isdisjoint(CPU_INFO.read_text("utf-8").split())
