"""The host side of the CUDA path on a machine without a GPU: `pytest --fake-gpu PYTHON tests/gpu/fake`.

A torch built for CUDA runs with stand-ins in place of NVIDIA's libraries (`stand_ins/`, `build.py`): device memory is
host memory, collectives are messages between processes, and kernels do nothing. `arithmetic.py` computes their results
on the CPU. So DeepSpeed, torch's NCCL process groups, streams, pinned memory and our own code do what they do on a
GPU, and losses can be compared. What a kernel computes, and how long anything takes, only a GPU can tell.
"""
