"""Pieces of freed memory go back to the system while tensors between them live on."""

import platform

import psutil
import pytest
import torch

from pretrain.engine.host_memory import return_freed_memory

MIB = 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_returned():
    return_freed_memory()
    process = psutil.Process()
    before = process.memory_info().rss
    tensors = [torch.ones(MIB // 64) for _ in range(2048)]  # 64 KiB each, 128 MiB in all
    del tensors[::2]
    return_freed_memory()
    assert process.memory_info().rss - before < 80 * MIB
    assert len(tensors) == 1024
