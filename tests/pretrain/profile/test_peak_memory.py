"""The peak is of what was held since the last reset."""

import pytest
import torch

from pretrain.engine.distributed import computes_on_gpu
from pretrain.profile.peak_memory import CLEAR, peak_bytes, reset_peak, resident_bytes

MIB = 2**20


@pytest.mark.skipif(computes_on_gpu(), reason="host memory is measured where there is no GPU")
@pytest.mark.skipif(not CLEAR.exists(), reason="the system keeps no peak to reset")
def test_the_peak_falls_after_a_reset_only():
    held = resident_bytes()
    tensor = torch.ones(256 * MIB // 4)
    del tensor
    assert peak_bytes() >= held + 192 * MIB  # some of what earlier tests held may go meanwhile
    reset_peak()
    assert peak_bytes() < held + 64 * MIB
